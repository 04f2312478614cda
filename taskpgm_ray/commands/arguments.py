"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from taskpgm_ray.config import StudyConfig


def add_config(command: argparse.ArgumentParser) -> None:
    """The config of a study, and what overrides its values."""
    command.add_argument("--config", required=True, help="YAML file of the study")
    command.add_argument("overrides", nargs="*", metavar="section.field=value", help="override config values")


def add_json(command: argparse.ArgumentParser, text: str = "print it as JSON") -> None:
    """For programs that read what the command prints."""
    command.add_argument("--json", action="store_true", help=text)


def print_json(value: Any) -> None:
    """On standard output, as text that a person can read as well; numbers that are not finite become ``null``."""
    import json

    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    """The value without what JSON has no numbers for; files of earlier versions may hold it."""
    import math

    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def on_stderr() -> Console:
    """Where progress goes when standard output is for a program."""
    from rich.console import Console

    return Console(stderr=True)


def config_of(options: argparse.Namespace) -> StudyConfig:
    """What these arguments say.

    Raises:
        ConfigError: The file or a value cannot be used.
    """
    from taskpgm_ray.config import load_config

    return load_config(options.config, options.overrides)
