"""The command line: ``taskpgm run --config study.yaml pool.max_tasks=12``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from taskpgm_ray.commands import (
    add_tasks,
    clean,
    compare,
    completion,
    config,
    doctor,
    explain,
    export,
    init,
    merge,
    plan,
    regress,
    report,
    solve,
    status,
    study,
    tasks,
    validate,
)
from taskpgm_ray.errors import ConfigError, Problems, ResourceError, TaskPGMError
from taskpgm_ray.paths import redacted
from taskpgm_ray.runtime.signals import exit_code, stoppable
from taskpgm_ray.version import INSTALL

MODULES = (
    *(init, validate, tasks, plan, study, status, report, explain, compare, export, merge, solve, regress),
    *(add_tasks, clean, doctor, config, completion),
)
"""The commands, in the order in which a user meets them."""
OF_A_STUDY = (
    "datasets",
    "lm_eval",
    "optuna",
    "peft",
    "plotly",
    "ray",
    "safetensors",
    "sklearn",
    "torch",
    "transformers",
)
"""What only the package's extras install."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 on success, else `TaskPGMError.exit_code`, 2 for its usage, 130 or 143 when interrupted."""
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, unknown = parser.parse_known_args(given)
    if unknown:
        parser.error(_no_option(unknown[0], given, hasattr(options, "overrides")))
    try:
        with stoppable():
            options.command(options)
    except TaskPGMError as error:
        for line in _lines(error):
            print(f"taskpgm: {redacted(line)}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in OF_A_STUDY:
            raise
        print(f"taskpgm: {missing} is not installed, which studies need: {INSTALL}", file=sys.stderr)
        return ResourceError.exit_code
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("taskpgm: interrupted; finished work is kept, the same command goes on from it", file=sys.stderr)
        return exit_code()
    return 0


def _lines(error: TaskPGMError) -> list[str]:
    """An error as it is printed: of several problems, or mistakes in a config, each has a line."""
    if isinstance(error, Problems):
        return error.lines
    kind = type(error).__name__
    if isinstance(error, ConfigError):
        return [f"{kind}: {line}" for line in str(error).splitlines()]
    return [f"{kind}: {error}"]


def _no_option(unknown: str, given: Sequence[str], overrides: bool) -> str:
    """What is wrong with an unknown option; most are config values, written as other programs have them."""
    if not overrides or not unknown.startswith("--"):
        return f"unrecognized argument: {unknown}"
    from taskpgm_ray.config import StudyConfig
    from taskpgm_ray.config_mistakes import all_fields, habitual

    name, equals, value = unknown.removeprefix("--").partition("=")
    following = given[given.index(unknown) + 1 :]
    if not equals:
        value = following[0] if following and not following[0].startswith("--") else "..."
    key, known = name.replace("-", "_"), list(all_fields(StudyConfig))
    habit = habitual(key)
    field = (habit or key).partition(" ")[0]
    said = f"{unknown} is no option"
    if habit and "(" in habit:
        # A remark in brackets: values are counted in another unit here, and the given one would be wrong.
        said, value = f"--{name} is called {habit} here", "..."
    places = [field] if field in known or "." in field else [one for one in known if one.rpartition(".")[2] == field]
    if not places:
        return f"unrecognized argument: {unknown}; config values are given without dashes: section.field=value"
    return f"{said}; config values are given without dashes: {f'={value} or '.join(places)}={value}"


def _parser() -> argparse.ArgumentParser:
    from taskpgm_ray import __version__

    parser = argparse.ArgumentParser(prog="taskpgm", description="In what proportions to mix fine-tuning tasks.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in MODULES:
        module.add(commands)
    # What completes commands has to know them all.
    parser.set_defaults(parser=parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
