"""HTML tables that sort on a click, built from escaped cells."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One cell: its text, what it sorts by, and a bar behind a number or a mark beside it."""

    text: str
    sort: Any = None
    """Number to sort by; None sorts by the text."""
    export: str | None = None
    """What stands in the CSV, where ``sort`` is not all that the text says; None: ``sort``, or the text."""
    bar: float | None = None
    """Length of the bar under the number, 0 to 1."""
    mark: str | None = None
    """``good``, ``bad`` or ``warn``: the colour of the text."""
    title: str | None = None
    """Explanation shown on hovering."""
    lines: bool = False
    """Whether it is a text whose line breaks are kept."""


def table(
    header: Sequence[str], rows: Sequence[Sequence[Cell | str]], caption: str, *, chosen: Container[int] = ()
) -> str:
    """An HTML table; columns whose cells sort by a number are aligned to the right.

    Args:
        header: Column titles.
        rows: Cells or plain strings; every string is escaped here.
        caption: What the table shows, for screen readers.
        chosen: Numbers of the rows to highlight.
    """
    body = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    numeric = [any(row[k].sort is not None for row in body) for k in range(len(header))]
    head = "".join(
        f'<th scope="col"{_class("num" if right else None)}><button type="button">{escape(title)}</button></th>'
        for title, right in zip(header, numeric, strict=True)
    )
    lines = []
    for i, row in enumerate(body):
        cells = "".join(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))
        lines.append(f"<tr{_class('chosen' if i in chosen else None)}>{cells}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="sortable">'
        f'<caption class="hidden">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(cell: Cell, right: bool) -> str:
    classes = " ".join(filter(None, ("num" if right else None, cell.mark, "lines" if cell.lines else None)))
    sort = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort))}"'
    sort += "" if cell.export is None else f' data-csv="{escape(cell.export)}"'
    title = "" if cell.title is None else f' title="{escape(cell.title)}"'
    bar = (
        "" if cell.bar is None else f'<span class="bar" style="width:{100 * min(1.0, max(0.0, cell.bar)):.1f}%"></span>'
    )
    return f"<td{_class(classes or None)}{sort}{title}>{escape(cell.text)}{bar}</td>"


def _class(name: str | None) -> str:
    return f' class="{name}"' if name else ""
