"""What every source makes of its rows: examples, and the rows that are none."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from taskpgm_ray.errors import DataError

SHOWN = 5
"""Bad rows that a message names; all of them are in the task's unit."""


@dataclass(frozen=True)
class Example:
    """One training example: the turns of the prompt, and the response to be learned."""

    turns: tuple[tuple[str, str], ...]
    """(role, content) of each turn before the response; a call of a tool is JSON here."""
    response: str
    chat: str = ""
    """JSON ``{"messages": [...], "tools": [...]}`` where a chat template takes more than roles and contents: all
    messages as the file has them, the response's last, and the tools' descriptions. Else empty."""
    answer: int = 0
    """Number of this answer, from 0, of those that its row gives to one prompt."""

    def messages(self) -> list[dict[str, Any]]:
        """The prompt's messages as a chat template takes them."""
        if self.chat:
            return json.loads(self.chat)["messages"][:-1]
        return [{"role": role, "content": content} for role, content in self.turns]

    def reply(self) -> dict[str, Any]:
        """The response's message as a chat template takes it."""
        if self.chat:
            return json.loads(self.chat)["messages"][-1]
        return {"role": "assistant", "content": self.response}

    def tools(self) -> list[Any] | None:
        """Descriptions of the tools that the conversation may call, for the chat template."""
        return (json.loads(self.chat)["tools"] or None) if self.chat else None

    def prompt_key(self) -> list[Any]:
        """What two examples share that count as one: the turns, and where there are tools, these as well."""
        tools = self.tools()
        return [self.turns, tools] if tools else [self.turns]


@dataclass(frozen=True)
class Row:
    """An example and where it stands: file and line."""

    where: str
    example: Example


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, where it stands, and why."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass
class Reading:
    """What was read of a source."""

    size: int
    """Rows that the source has; no more than were read where it is generated."""
    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    layouts: Counter[str] = field(default_factory=Counter)
    """How many of the rows have which layout."""
    unread: Counter[str] = field(default_factory=Counter)
    """Columns that their layouts do not read, and in how many rows these say something."""

    @property
    def examples(self) -> list[Example]:
        """The examples alone."""
        return [row.example for row in self.rows]

    @property
    def layout(self) -> str:
        """The layouts, the most frequent first: ``messages``, or ``messages (19), prompt/response (1)``."""
        found = self.layouts.most_common()
        return found[0][0] if len(found) == 1 else ", ".join(f"{name} ({count})" for name, count in found)

    def part(self, number: int, of: int) -> Reading:
        """The share of these rows whose prompts' hashes say so; examples of one prompt stay together."""
        import hashlib

        def share(example: Example) -> int:
            digest = hashlib.sha256(repr(example.turns).encode()).digest()
            return int.from_bytes(digest[:8], "big") % of

        rows = [row for row in self.rows if share(row.example) == number - 1]
        bad = [row for row in self.bad if zlib.crc32(row.where.encode()) % of == number - 1]
        read, whole = len(rows) + len(bad), len(self.rows) + len(self.bad)
        return Reading(round(self.size * read / whole) if whole else 0, rows, bad, self.layouts, self.unread)


def few(bad: Iterable[BadRow]) -> str:
    """The first bad rows, for a message."""
    rows = list(bad)
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return "; ".join(map(str, rows[:SHOWN])) + more


def check_bad(name: str, bad: list[BadRow], rows: int, stop: bool, most: float) -> None:
    """Refuse a task with bad rows: any at all (``stop``), or more than the share ``most`` of its rows.

    Raises:
        DataError: It names the first bad rows with file and line.
    """
    if not bad:
        return
    if stop:
        raise DataError(f"task {name!r}: {few(bad)}. Mend the file, or set pool.bad_rows: skip")
    if len(bad) > most * rows:
        raise DataError(
            f"task {name!r}: {len(bad)} of {rows} rows cannot be used, more than the share {most:g} of "
            f"pool.max_bad_share: {few(bad)}. Mend the file, or raise pool.max_bad_share"
        )
