"""Rows in blocks, and a uniform draw of these that fits into memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.json_text import loads

Record = dict[str, Any]
Entry = tuple[str, Record | bytes]
"""Where a row stands, and its record, or its line of JSON that is yet to be parsed."""


@dataclass(frozen=True)
class Block:
    """Rows that lie together."""

    rows: int
    take: Callable[[list[int]], list[Entry]]
    """(indices in the block, ascending) -> these rows; only they are converted."""


def draw(blocks: Iterable[Block], limit: int, seed: int) -> tuple[list[tuple[str, Record]], int]:
    """At most ``limit`` rows, and how many there are.

    All rows, where these are no more; else each subset of ``limit`` is equally likely (Vitter 1985, algorithm R). In
    the file's order; no more than ``limit`` rows and one block are in memory. Lines of JSON are parsed when drawn.

    Raises:
        DataError: A file cannot be read, or a drawn line is no JSON object.
    """
    dice = random.Random(seed)
    kept: dict[int, tuple[int, Entry]] = {}
    size = 0
    for block in blocks:
        entering: dict[int, int] = {}
        for index in range(block.rows):
            slot = size + index if size + index < limit else dice.randrange(size + index + 1)
            if slot < limit:
                entering[slot] = index
        if entering:
            indices = sorted(entering.values())
            taken = dict(zip(indices, block.take(indices), strict=True))
            kept |= {slot: (size + index, taken[index]) for slot, index in entering.items()}
        size += block.rows
    drawn = (entry for _, entry in sorted(kept.values(), key=lambda numbered: numbered[0]))
    return [(where, parse_line(row, where) if isinstance(row, bytes) else row) for where, row in drawn], size


def parse_line(line: bytes, where: str) -> Record:
    """One line of JSON as a record.

    Raises:
        DataError: It is not UTF-8, no JSON, or no object.
    """
    try:
        record = loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}); re-encode the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON object is expected, not {type(record).__name__}")
    return record
