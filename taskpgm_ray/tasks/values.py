"""Values of a record as text, and templates over its columns.

Nothing in a row is ever written as Python writes it: null, NaN and what is absent are empty, numbers stay as the file
has them, and objects, lists and booleans are JSON.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from decimal import Decimal
from string import Formatter
from typing import Any, Literal

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.json_text import dumps

ABSENT = object()
"""What `look_up` finds where there is nothing."""
Choice = Literal["first", "random", "all"]
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\[\]]+)\]")


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: absent, null, NaN."""
    return value is ABSENT or value is None or (isinstance(value, float) and math.isnan(value))


def as_text(value: Any) -> str:
    """A value as text.

    Raises:
        ValueError: It is no text, number, date, or JSON: bytes that are not UTF-8, for example.
    """
    if is_empty(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (bool, list, tuple, dict)):
        return dumps(value, as_text)
    if isinstance(value, Decimal):
        return format(value, "f")
    # Numbers, dates and times: Arrow's Python objects write themselves as files have them.
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def look_up(record: dict[str, Any], name: str) -> Any:
    """The column of this name; else the entry of a column that the name leads to: ``a.b``, ``a[b]``, ``a[0]``.

    Columns may have dots, colons or brackets in their own names: the longest name that fits is taken.
    """
    if name in record:
        return record[name]
    for end in (i for i in range(len(name) - 1, 0, -1) if name[i] in ".["):
        if name[:end] in record:
            return _entry(record[name[:end]], name[end:])
    return ABSENT


def _entry(value: Any, path: str) -> Any:
    while path and not is_empty(value):
        step = _STEP.match(path)
        if step is None:
            return ABSENT
        key, path = step[1] or step[2], path[step.end() :]
        if isinstance(value, dict):
            value = value.get(key, ABSENT)
        elif isinstance(value, (list, tuple)):
            value = value[int(key)] if key.isdecimal() and int(key) < len(value) else ABSENT
        else:
            return ABSENT
    return value


class Template:
    """A template over a record's columns, such as ``"Q: {question}"``; doubled braces are braces."""

    def __init__(self, text: str, side: Literal["prompt", "response"]) -> None:
        self.text = text
        self.side = side
        self.parts = list(Formatter().parse(text))

    def _value(self, record: dict[str, Any], part: tuple[str, str | None, str | None, str | None]) -> tuple[Any, str]:
        """What one pair of braces stands for, and how to format it."""
        _, name, spec, conversion = part
        # A colon is part of a column's name before it begins a format.
        whole = f"{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}"
        value = look_up(record, whole) if whole != name else ABSENT
        return (look_up(record, name or ""), spec or "") if value is ABSENT else (value, "")

    def check(self, records: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Refuse a template that names what no record has, or writes a column with Jinja's braces.

        Raises:
            DataError: It names the first record's file and line, and its columns.
        """
        if not records:
            return
        where, first = records[0]
        have = ", ".join(sorted({str(column) for _, record in records for column in record}))
        for part in self.parts:
            if part[1] is not None and all(self._value(record, part)[0] is ABSENT for _, record in records):
                raise DataError(
                    f"{where}: no column {part[1]!r}; it has: {have}. Set the task's `{self.side}` template"
                )
        for name in re.findall(r"\{\{\s*([^{}]+?)\s*\}\}", self.text):
            if look_up(first, name) is not ABSENT:
                raise DataError(
                    f"{where}: the task's `{self.side}` template has {{{{{name}}}}}, which stands for braces and not "
                    f"for the column; write {{{name}}}"
                )

    def sole(self, record: dict[str, Any]) -> Any:
        """The value of the only column, where the template is nothing else; else ``ABSENT``."""
        if len(self.parts) == 1 and not self.parts[0][0]:
            value, spec = self._value(record, self.parts[0])
            return ABSENT if spec else value
        return ABSENT

    def render(self, record: dict[str, Any], where: str) -> str:
        """The text; empty when all of its columns are.

        Raises:
            DataError: A format does not fit its value.
        """
        said, pieces = False, []
        for part in self.parts:
            pieces.append(part[0])
            if part[1] is None:
                continue
            value, spec = self._value(record, part)
            if not is_empty(value):
                try:
                    piece = format(value, spec) if spec else as_text(value)
                except (ValueError, TypeError) as error:
                    raise DataError(
                        f"{where}: the task's `{self.side}` template {self.text!r} does not fit: {error}"
                    ) from None
                said = said or bool(piece.strip())
                pieces.append(piece)
        return "".join(pieces) if said else ""


def chosen(value: Any, choice: Choice | None, key: str, where: str) -> list[Any]:
    """Of a response that may be a list of answers, those to be learned; any other value is the only one.

    Args:
        value: The response as the row has it.
        choice: The task's ``answers``.
        key: Decides a random choice. Of seed and prompt, not of file and line: a moved file keeps its answers.
        where: File and line, for errors.

    Raises:
        DataError: There are several, and no choice was made.
    """
    # A list of numbers or objects is one answer, which is JSON.
    if not (isinstance(value, (list, tuple)) and all(isinstance(v, str) or is_empty(v) for v in value)):
        return [value]
    answers = list(dict.fromkeys(v for v in value if not is_empty(v)))
    if len(answers) < 2 or choice == "all":
        return answers or [None]
    if choice is None:
        raise DataError(f"{where}: {len(answers)} answers in a list; set the task's `answers` to first, random or all")
    return [answers[0] if choice == "first" else random.Random(key).choice(answers)]
