"""A table for terminals that drops columns where there is no room, and never cuts a digit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

FOLDED = 14
"""Least width of a column whose texts may be folded."""


@dataclass(frozen=True)
class Column:
    """One column."""

    title: str
    stays: int
    """Columns with smaller numbers go first where there is no room."""
    text: bool = False
    """Names: to the left, and folded where they are long. Otherwise figures: to the right, and whole."""


@dataclass
class FittedTable:
    """A rich renderable."""

    title: str = ""
    columns: list[Column] = field(default_factory=list)
    rows: list[list[Text]] = field(default_factory=list)

    def column(self, title: str, stays: int, text: bool = False) -> None:
        """Add a column."""
        self.columns.append(Column(title, stays, text))

    def row(self, *cells: str | Text) -> None:
        """Add a row; strings are shown as they are, without markup."""
        from rich.text import Text

        self.rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        kept = self._fitting(options.max_width)
        title = Text(self.title) if self.title else None
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for k in kept:
            column = self.columns[k]
            if column.text:
                table.add_column(Text(column.title), overflow="fold", min_width=min(FOLDED, self._width(k)))
            else:
                table.add_column(Text(column.title), justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(row[k] for k in kept))
        yield table
        gone = [self.columns[k].title for k in range(len(self.columns)) if k not in kept and self.columns[k].title]
        if gone:
            yield Text(f"no room for: {', '.join(gone)}", style="dim")

    def _width(self, k: int) -> int:
        return max(len(self.columns[k].title), *(row[k].cell_len for row in self.rows), 1)

    def _fitting(self, width: int) -> list[int]:
        """The columns that there is room for, in their order."""
        kept = list(range(len(self.columns)))

        def needed() -> int:
            # A space on either side of a column's edge, and the box's own.
            own = [min(FOLDED, self._width(k)) if self.columns[k].text else self._width(k) for k in kept]
            return sum(own) + 3 * len(kept)

        while len(kept) > 1 and needed() > width:
            kept.remove(min(kept, key=lambda k: (self.columns[k].stays, -k)))
        return kept
