"""The page of the command line from the parser itself: ``python docs/generate_cli.py > docs/cli.md``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from taskpgm_ray import errors
from taskpgm_ray.cli import _parser

HEAD = """\
# Command line

`python docs/generate_cli.py` prints this page from the parser. `taskpgm COMMAND --help` shows the same in the terminal.

Config values have no dashes: `section.field=value` sets one for this call, as often as needed
([configuration reference](configuration.md)). A study's folder may be a path or a URI such as `s3://bucket/folder/study`.
`python jobs/optimize.py` is `taskpgm run`; without `--config` it runs the quickstart.
"""
MEANINGS = {
    1: "something else went wrong: the message says what, where, and what to do",
    2: "the command line is wrong: an unknown command or option, or a missing argument",
    3: "the config is wrong",
    4: "the data or another input cannot be used",
    5: "the machine or the cluster lacks resources",
    6: "another driver works on the study",
}
"""Exit codes, apart from success and signals."""
SIGNALS = {
    129: "ended by SIGHUP; finished work is kept",
    130: "ended by Ctrl-C (SIGINT); finished work is kept",
    143: "ended by SIGTERM; finished work is kept",
}

NOTE = """\
Errors go to standard error, one problem a line, each with the name of its class. Of several problems the first
decides the code. After a signal or a failure the same command goes on from what is finished."""


def reference() -> str:
    """The whole page."""
    parser = _parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    names = [choice.dest for choice in commands._choices_actions]
    short = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    index = [_wrapped(f"- [`{name}`](#taskpgm-{name}): {short[name]}") for name in names]
    parts = [HEAD.rstrip(), "\n".join(index), *(_command(n, commands.choices[n]) for n in names), _exit_codes()]
    return "\n\n".join(parts) + "\n"


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    """One command: what it does, how it is called, and what each argument means."""
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    required = [a for a in actions if a.option_strings and a.required]
    optional = [a for a in actions if a.option_strings and not a.required]
    positional = [a for a in actions if not a.option_strings]
    exclusive = [group._group_actions for group in parser._mutually_exclusive_groups if group.required]
    usage = [f"usage: taskpgm {name}"]
    usage += [_called(a) for a in required]
    usage += [f"({' | '.join(_called(a) for a in group)})" for group in exclusive]
    usage += ["[options]"] if any(all(a not in group for group in exclusive) for a in optional) else []
    usage += [_placed(a) for a in positional]
    lines = [_wrapped(f"- `{_called(a)}`{_said(a, parser)}") for a in [*positional, *required, *optional]]
    head = f"## taskpgm {name}\n\n{_sentence(parser.description or '')}\n\n```text\n{' '.join(usage)}\n```"
    return f"{head}\n\n" + "\n".join(lines) if lines else head


def _called(action: argparse.Action) -> str:
    """An argument as it is written, the value of an option in capitals."""
    if not action.option_strings:
        return _shown(action)
    text = ", ".join(action.option_strings)
    if action.nargs == 0:
        return text
    value = str(
        action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    )
    return f"{text} [{value}]" if action.nargs == "?" else f"{text} {value}"


def _shown(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)


def _placed(action: argparse.Action) -> str:
    """A positional argument in the usage line."""
    name = _shown(action)
    return {"*": f"[{name} ...]", "+": f"{name} [{name} ...]", "?": f"[{name}]"}.get(str(action.nargs), name)


def _said(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """The meaning of an argument, with the values that it may have."""
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    if action.choices and not action.option_strings:
        text = f"{text}; one of" if text else "one of"
        text += f" {', '.join(f'`{choice}`' for choice in action.choices)}"
    often = " May be given several times." if isinstance(action, argparse._AppendAction) else ""
    return f": {text.rstrip('.')}.{often}" if text else ""


def _exit_codes() -> str:
    """What a command returns, with the errors of each code."""
    kinds: dict[int, list[str]] = defaultdict(list)
    for kind in _errors():
        kinds[kind.exit_code].append(f"`{kind.__name__}`")
    assert kinds.keys() <= MEANINGS.keys(), f"MEANINGS lacks one of the exit codes {sorted(kinds)}"
    rows = ["| code | meaning |", "|---|---|", "| 0 | success |"]
    rows += [f"| {code} | {meaning} |" for code, meaning in (MEANINGS | SIGNALS).items()]
    named = [_wrapped(f"- {code}: {', '.join(kinds[code])}") for code in sorted(kinds)]
    parts = ["## Exit codes", NOTE, "\n".join(rows), "The errors of each code:", "\n".join(named)]
    return "\n\n".join(parts)


def _errors() -> Iterator[type[errors.TaskPGMError]]:
    """The errors that a command may end with, by name."""
    for _, kind in sorted(vars(errors).items()):
        # The base, and what stands for several others, have no code of their own.
        one = isinstance(kind, type) and issubclass(kind, errors.TaskPGMError)
        if one and kind not in (errors.TaskPGMError, errors.Problems):
            yield kind


def _wrapped(item: str) -> str:
    """An entry of a list, no line of it too long to be read in an editor."""
    return textwrap.fill(item, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


if __name__ == "__main__":
    sys.stdout.write(reference())
