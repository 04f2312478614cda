"""The example configs: those of the checkout, or those that the wheel has brought along."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from taskpgm_ray.errors import ConfigError

SHARED = Path("share") / "taskpgm_ray"
"""Where the wheel puts them, below the environment's own folder (`data-files` in pyproject.toml)."""


def examples() -> dict[str, Path]:
    """Name -> file."""
    checkout = Path(__file__).resolve().parents[1] / "jobs"
    folder = checkout if (checkout / "quickstart.yaml").exists() else Path(sysconfig.get_path("data")) / SHARED
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def example(name: str) -> str:
    """The text of one.

    Raises:
        ConfigError: There is none of that name.
    """
    known = examples()
    if name not in known:
        raise ConfigError(f"there is no example {name!r}; there are {', '.join(known) or 'none'}")
    return known[name].read_text(encoding="utf-8")


def summary(name: str) -> str:
    """Its first line, which says what it is."""
    return example(name).partition("\n")[0].removeprefix("#").strip()
