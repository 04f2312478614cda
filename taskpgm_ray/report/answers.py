"""The section that shows what the base model, uniform and the winner write when they are asked."""

from __future__ import annotations

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.page import Section, note, paragraph
from taskpgm_ray.report.tables import Cell, table

MOST_SHOWN = 240
"""Characters of a prompt; its end is what is asked."""


def section(data: ReportData) -> Section:
    """A row per item."""
    title = "What the models write"
    if not data.samples:
        return Section("answers", title, note("No answers were kept (evaluation.samples=3 asks three items)."))
    systems = list(data.samples[0].answers)
    rows: list[list[Cell | str]] = [
        [
            f"{one.benchmark}: {one.task}",
            Cell(_end(one.question), title=one.question if len(one.question) > MOST_SHOWN else None, lines=True),
            one.target,
            *(_answer(one.answers[system], one.target) for system in systems),
        ]
        for one in data.samples
    ]
    return Section(
        "answers",
        title,
        paragraph(
            "A few items of the report split, drawn at random, and what is written after them (greedily, 40 tokens at "
            "most). Green begins with the right answer. Scores are not made of these texts but of probabilities, over "
            "many more items."
        )
        + table(["item", "prompt", "right answer", *systems], rows, "Prompts of the report split and answers to them"),
    )


def right(written: str, target: str) -> bool:
    """Whether a text begins with the right answer, and no longer word."""
    # Of MMLU's "B. the choice" the letter is what is asked for.
    wanted = target[0] if len(target) > 2 and target[1:3] == ". " and target[0] in "ABCD" else target
    said, wanted = written.strip().lower(), wanted.strip().lower()
    return bool(wanted) and said.startswith(wanted) and not said[len(wanted) :][:1].isalnum()


def _answer(written: str, target: str) -> Cell:
    return Cell(written.strip() or "(nothing)", mark="good" if right(written, target) else None, lines=True)


def _end(question: str) -> str:
    return question if len(question) <= MOST_SHOWN else f"… {question[-MOST_SHOWN:]}"
