"""The text of a config: YAML in which no key stands twice, ``a.b=c`` overrides, entries that are added to a list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from taskpgm_ray.errors import ConfigError
from taskpgm_ray.paths import expanded, looked_in

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_config(source: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: The file is missing, no UTF-8, not YAML, or a key stands in it twice.
    """
    return parse(read_text(source), str(source))


def read_text(source: str | Path) -> str:
    """The text of a YAML file.

    Raises:
        ConfigError: The file is missing, or no UTF-8.
    """
    where = str(source)
    try:
        raw = Path(expanded(where)).read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"there is no config file {where!r}{looked_in(where)}; give its path after --config"
        ) from None
    except ValueError as error:
        raise ConfigError(f"--config {where}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    # Without a byte-order mark, ASCII in UTF-16 has a zero in each of its first pairs of bytes.
    if raw.startswith(_UTF16) or b"\0" in raw[:4]:
        raise ConfigError(f"{where} is not readable YAML: it is in UTF-16 (or UTF-32); save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{where} is not readable YAML: line {line} is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None


def parse(text: str, where: str) -> Any:
    """A YAML text as Python values; ``where`` names it in messages.

    Raises:
        ConfigError: It is not YAML, or a key stands in it twice.
    """
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        twice = list(_twice(tree, "", set()))
        if twice:
            raise ConfigError("\n".join(f"{where}: {line}" for line in twice))
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where} is not readable YAML: {_problem(error, text)}") from error


def apply(data: dict[str, Any], override: str) -> None:
    """Set one ``a.b=c`` override in the raw mapping, in place.

    Raises:
        ConfigError: It has another form, its value is not YAML, or it leads into a value that has no fields.
    """
    key, equals, raw = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form section.field=value")
    node: Any = data
    *parents, last = key.split(".")
    value = parse(raw, f"override {override!r}: {raw!r}")
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last)] = value
        elif isinstance(node, dict):
            node[last] = value
        else:
            raise ConfigError(f"override {override!r}: {'.'.join(parents)} is a plain value and has no field {last!r}")
    except (ValueError, IndexError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"override {override!r} does not fit the config: {error}") from error


def with_entries(text: str, where: str, keys: Sequence[str], entries: Sequence[str]) -> str:
    """The text with further entries at the end of one of its lists; comments and layout stay as they are.

    Args:
        text: YAML.
        where: Its name in messages.
        keys: The way to the list: ``("pool", "tasks")``.
        entries: Plain strings.

    Raises:
        ConfigError: It is not YAML, there is no such list, or its layout takes no further line.
    """
    old = parse(text, where)
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((value for name, value in pairs if name.value == key), None)
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise ConfigError(f"{where} has no list {'.'.join(keys)} to which something could be added")
    # JSON's strings are YAML's.
    quoted = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    end = len(text[: node.value[-1].end_mark.index].rstrip())
    if node.flow_style:
        made = f"{text[:end]}, {', '.join(quoted)}{text[end:]}"
    else:
        line = text.find("\n", end)
        line = len(text) if line < 0 else line
        dash = f"\n{' ' * node.start_mark.column}- "
        made = text[:line] + "".join(dash + one for one in quoted) + text[line:]
    if parse(made, where) != _extended(old, keys, entries):
        raise ConfigError(f"{where} is laid out in a way that cannot be added to; write into {'.'.join(keys)} by hand")
    return made


def _extended(value: Any, keys: Sequence[str], entries: Sequence[str]) -> Any:
    """The same with further entries in the list that ``keys`` lead to, and nowhere else."""
    if not keys:
        return [*value, *entries]
    return {**value, keys[0]: _extended(value[keys[0]], keys[1:], entries)}


def _twice(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    """One sentence for each key that stands twice in one mapping, anywhere below; YAML keeps the last one silently."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, one in enumerate(node.value):
            yield from _twice(one, f"{path}{number}.", seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first:
                yield (
                    f"the key '{path}{name}' stands twice, in line {first[name]} and in line {line}; only one of the "
                    "two would count, so make them one"
                )
            first.setdefault(name, line)
            yield from _twice(value, f"{path}{name}.", seen)


def _problem(error: Exception, text: str) -> str:
    """What the parser complains about, in one line, with the line of the file."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split()) or type(error).__name__
    line = mark.line + 1
    rows = text.splitlines()
    row = rows[mark.line] if mark.line < len(rows) else ""
    if "\t" in row[: len(row) - len(row.lstrip())] or row[mark.column : mark.column + 1] == "\t":
        return f"line {line} is indented with a tab, where YAML takes spaces only; replace the tab"
    said = " ".join(str(part) for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part)
    shown = f": {row.strip()[:80]!r}" if row.strip() else ""
    return f"line {line}, column {mark.column + 1}: {said}{shown}"
