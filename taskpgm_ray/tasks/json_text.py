"""JSON as files of data have it: numbers keep their spelling, on the way in and out, and no key is there twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any


class Written(float):
    """A number that is not whole, with the spelling of its file."""

    spelling: str

    @classmethod
    def of(cls, spelling: str) -> Written:
        """The number that is spelled so."""
        number = cls(spelling)
        number.spelling = spelling
        return number

    def __str__(self) -> str:
        return self.spelling

    def __format__(self, spec: str) -> str:
        return float.__format__(self, spec) if spec else self.spelling

    def __reduce__(self) -> Any:
        return Written.of, (self.spelling,)


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is no JSON, or an object has a key twice.
    """
    return json.loads(text, parse_float=Written.of, parse_constant=Written.of, object_pairs_hook=once)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its pairs, for ``json.loads(..., object_pairs_hook=once)``, which would take the last of two.

    Raises:
        ValueError: It names the key that is there twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return made


def dumps(value: Any, other: Callable[[Any], str]) -> str:
    """A value as ``json.dumps`` writes it, but numbers as they are spelled, decimals too, and NaN as null.

    Args:
        value: Of a row.
        other: Writes what JSON does not know, a date for example, as the text that stands in its place.
    """
    if isinstance(value, dict):
        names = (key if isinstance(key, str) else dumps(key, other).strip('"') for key in value)
        entries = zip(map(_text, names), value.values(), strict=True)
        return "{" + ", ".join(f"{name}: {dumps(one, other)}" for name, one in entries) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(dumps(one, other) for one in value) + "]"
    if isinstance(value, float) and math.isnan(value):
        return "null"
    if isinstance(value, Written):
        return value.spelling
    if isinstance(value, Decimal):
        return format(value, "f")
    if value is None or isinstance(value, (str, int, float)):
        return _text(value)
    return _text(other(value))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
