"""Which of the user's constraints hold which tasks, and which tasks would be repeated too often."""

from __future__ import annotations

from taskpgm_ray.mixture.constraints import USUAL_EPOCHS
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import number, percent

NAMED = 6
"""Tasks that a sentence names."""


def sentences(data: ReportData) -> list[str]:
    """A sentence a constraint that binds, and one on repeats; none where nothing binds."""
    held: dict[str, list[str]] = {}
    repeated = []
    for entry in data.mixture["tasks"]:
        for name in dict.fromkeys(entry.get("held_by", ())):
            held.setdefault(name, []).append(f"{entry['name']} ({percent(entry['weight'])})")
        if (entry.get("epochs") or 0) > USUAL_EPOCHS * (1 + 1e-9):
            repeated.append(f"{entry['name']} {number(entry['epochs'])} times")
    found = [f"The constraint {name} holds {_listed(tasks)}." for name, tasks in held.items()]
    if repeated:
        found.append(
            f"Each example would be used {_listed(repeated)}: repeats beyond {USUAL_EPOCHS:g} epochs teach less and "
            "less; lower mixture.examples, or set mixture.constraints.max_epochs."
        )
    return found


def _listed(things: list[str]) -> str:
    shown = ", ".join(things[:NAMED])
    return shown if len(things) <= NAMED else f"{shown} and {len(things) - NAMED} more"
