"""What the chosen mixture does to each of the pool's tasks: their held-out examples before fine-tuning and after."""

from __future__ import annotations

from dataclasses import dataclass

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.page import Section, note, paragraph
from taskpgm_ray.report.tables import Cell, table
from taskpgm_ray.report.text import MISSING, number, score

POOL = "pool"
"""The benchmark of the pool's own held-out examples (as in `taskpgm_ray.evaluation`, which is not loaded here)."""


@dataclass(frozen=True)
class BeforeAfter:
    """One data set of the pool: its held-out examples, gold log-probability in nats."""

    task: str
    items: int
    base: float
    uniform: float | None
    """``None`` where uniform was not tried."""
    mixture: float


def before_and_after(data: ReportData) -> list[BeforeAfter]:
    """The pool's data sets under the base model, uniform and the chosen mixture; none without ``own_tasks``."""
    rows = [row for row in data.by_task if row.benchmark == POOL]
    if not rows:
        return []
    chosen, *_, base = rows[0].scores
    value = {row.task: {system: means["gold_logprob"] for system, means in row.scores.items()} for row in rows}
    return [
        BeforeAfter(row.task, row.items, value[row.task][base], value[row.task].get("uniform"), value[row.task][chosen])
        for row in rows
    ]


def section(data: ReportData) -> Section:
    """What the chosen mixture does to each of the pool's data sets."""
    title = "Every task, before and after"
    rows = before_and_after(data)
    if not rows:
        return Section(
            "before",
            title,
            note("Not measured: evaluation.own_tasks=true asks held-out examples of every task (needs a search)."),
        )
    gains = [row.mixture - row.base for row in rows]
    largest = max(map(abs, gains)) or 1.0
    cells: list[list[Cell | str]] = [
        [
            row.task,
            Cell(number(row.items), row.items),
            *(Cell(score("gold_logprob", value), value) for value in (row.base, row.uniform, row.mixture)),
            Cell(
                score("gold_logprob", gain, signed=True),
                gain,
                bar=max(gain, 0) / largest,
                mark=None if gain > 0 else "bad",
            ),
            _difference(row.mixture, row.uniform),
        ]
        for row, gain in zip(rows, gains, strict=True)
    ]
    worse = sum(gain <= 0 for gain in gains)
    return Section(
        "before",
        title,
        paragraph(
            "Gold log-probability in nats on held-out examples of the report split, means over fine-tunes; tasks that "
            f"are parts of one data set count as one. {worse or 'None'} of {len(rows)} "
            f"{'is' if worse < 2 else 'are'} worse than before."
        )
        + table(
            ["data set", "items", "base model", "uniform", "mixture", "gain over base", "over uniform"],
            cells,
            "Held-out examples of every data set before fine-tuning and after",
        ),
    )


def _difference(value: float, other: float | None) -> Cell:
    return Cell(MISSING) if other is None else Cell(score("gold_logprob", value - other, signed=True), value - other)
