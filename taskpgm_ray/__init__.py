"""TaskPGM (arXiv 2507.12612) on Ray: in what proportions to mix fine-tuning tasks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskpgm_ray.version import __version__

if TYPE_CHECKING:
    from taskpgm_ray.config import StudyConfig, load_config
    from taskpgm_ray.result import StudyResult
    from taskpgm_ray.study import Study

__all__ = ["Study", "StudyConfig", "StudyResult", "__version__", "load_config"]

_HOMES = {"Study": "study", "StudyResult": "result", "StudyConfig": "config", "load_config": "config"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that ``solve`` alone needs neither Ray nor pydantic."""
    if name in _HOMES:
        return getattr(import_module(f"taskpgm_ray.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
