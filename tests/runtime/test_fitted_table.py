"""Tables for terminals: what there is no room for goes as a whole, and no figure is ever cut."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from taskpgm_ray.runtime.fitted_table import FittedTable


def printed(table, width):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


@given(
    st.integers(20, 160),
    st.lists(st.integers(10**4, 10**9), min_size=2, max_size=9, unique=True),
    st.text("ab ", max_size=60),
)
def test_a_figure_is_whole_or_its_column_is_named_as_missing(width, numbers, name):
    table = FittedTable("Numbers")
    table.column("task", 99, text=True)
    for k in range(len(numbers)):
        table.column(f"n{k}", k)
    table.row(name or "x", *(f"{n:,}" for n in numbers))
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    gone = text.partition("no room for: ")[2].replace("\n", " ").replace(" ", "").split(",")
    for k, number in enumerate(numbers):
        whole = re.search(rf"(?<![\d,]){number:,}(?![\d,])", text)
        assert (whole is None) == (f"n{k}" in gone)
    # The least important go first.
    assert [f"n{k}" for k in range(len(gone))] == sorted(gone) or gone == [""]


def test_there_is_room_for_all_in_a_wide_terminal():
    table = FittedTable()
    table.column("task", 9, text=True)
    table.column("share", 8)
    table.row("[bold]boolq[/bold]", "12.5 %")
    text = printed(table, 80)
    assert "[bold]boolq[/bold]" in text
    assert "no room" not in text


@pytest.mark.parametrize("width", [40, 80, 160])
def test_long_names_are_folded_and_never_cut(width):
    table = FittedTable()
    table.column("task", 9, text=True)
    table.column("share", 8)
    table.row("task_" * 30, "12.5 %")
    assert "task_" * 30 in "".join(printed(table, width).replace("12.5 %", "").split())
