"""The report of a study: one self-contained HTML page, and a few lines for the terminal.

Importing this package loads neither plotly nor scipy; `render` does when it is called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskpgm_ray.report.data import ReportData

if TYPE_CHECKING:
    from taskpgm_ray.report.html import render
    from taskpgm_ray.report.terminal import summary

__all__ = ["ReportData", "render", "summary"]

_HOMES = {"render": "html", "summary": "terminal"}


def __getattr__(name: str) -> Any:
    """Import the renderers on first use."""
    if name in _HOMES:
        return getattr(import_module(f"taskpgm_ray.report.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
