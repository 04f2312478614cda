"""Columns that say something and that a record's layout does not read: a passage beside a question, for example."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from taskpgm_ray.tasks.values import is_empty

_ABOUT = re.compile(
    r"|_?id|.*_id|idx|index|__.*|u?uid|guid|(data_)?source|dataset|task(_name)?|subset|split|meta(data)?|url|link"
    r"|category|tags|license|model|timestamp|text|.*_pretokenized",
    re.IGNORECASE,
)
"""Columns about a row, which nobody expects in a prompt; `text` is what its parts are together, and FLAN's texts stand
beside their token ids."""


def unread(record: dict[str, Any], read: Container[str]) -> Iterator[str]:
    """The columns of a record that are not ``read``, without those about the row and those that are empty."""
    for column, value in record.items():
        if not (column in read or _ABOUT.fullmatch(column) or is_empty(value) or value in ("", [], {})):
            yield column


def note(task: str, columns: Mapping[str, int], layout: str) -> str:
    """What a reader is told of them; empty where there are none.

    Args:
        task: Its name.
        columns: Unread column -> in how many rows it says something.
        layout: The task's, for the message.
    """
    if not columns:
        return ""
    listed = ", ".join(f"{name} ({rows:,} rows)" for name, rows in columns.items())
    return (
        f"{task}: columns that the layout {layout} does not read: {listed}; name those that belong there in the "
        "task's `prompt` template"
    )
