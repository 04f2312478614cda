"""``config``: every key with its meaning, the JSON schema, the examples, or a study's config as it is understood."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands


def add(commands: Commands) -> None:
    """See the module."""
    text = (
        "every config key with its meaning, the JSON schema, example configs, or a study's config as it is understood"
    )
    sub = commands.add_parser("config", help=text, description=text)
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--reference", action="store_true", help="all keys, their defaults and what they mean, in Markdown"
    )
    which.add_argument("--schema", action="store_true", help="JSON schema, for editors that complete YAML")
    which.add_argument(
        "--example", nargs="?", const="", metavar="NAME", help="print an example config; without a name, list them"
    )
    which.add_argument("--config", help="YAML file of a study: print it with every default filled in")
    sub.add_argument("overrides", nargs="*", metavar="section.field=value", help="override config values")
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print it."""
    import json

    from taskpgm_ray.config import StudyConfig, load_config
    from taskpgm_ray.config_reference import reference

    if options.reference:
        print(reference())
    elif options.example is not None:
        from taskpgm_ray.examples import example, examples, summary

        if options.example:
            print(example(options.example), end="")
        else:
            for name in examples():
                print(f"{name}: {summary(name)}")
    elif options.schema:
        print(json.dumps(StudyConfig.model_json_schema(), indent=2))
    else:
        print(load_config(options.config, options.overrides).to_yaml(), end="")
