"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskpgm_ray.config import StudyConfig


def add_config(command: argparse.ArgumentParser) -> None:
    """The config of a study, and what overrides its values."""
    command.add_argument("--config", required=True, help="YAML file of the study")
    command.add_argument("overrides", nargs="*", metavar="section.field=value", help="override config values")


def config_of(options: argparse.Namespace) -> StudyConfig:
    """What these arguments say.

    Raises:
        ConfigError: The file or a value cannot be used.
    """
    from taskpgm_ray.config import load_config

    return load_config(options.config, options.overrides)
