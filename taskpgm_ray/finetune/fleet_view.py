"""What a fleet shows while it works: a live table for a terminal, one line for a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table

MOST_ROWS = 16


@dataclass(frozen=True)
class FleetStatus:
    """A fleet at one moment."""

    waiting: int
    """Jobs that wait for a lane."""
    running: Mapping[str, dict[str, Any] | None]
    """Running job -> its last metrics row, ``None`` before the first."""
    lanes: int
    """Lanes that have taken up work."""
    pending: int
    """Lanes that wait for their resources, or load the model."""
    note: str = ""
    """What holds the fleet up, if something does."""


class Pace:
    """How fast jobs get done, in jobs per second, since this run began."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.began = time.monotonic()
        self.offset: float | None = None

    def seconds_left(self, finished: float) -> float | None:
        """Seconds until all jobs are done, given how many (and parts of) are; ``None`` while nothing has moved."""
        if self.offset is None:
            # Parts that checkpoints brought along were not done at this run's pace.
            self.offset = finished
        moved, elapsed = finished - self.offset, time.monotonic() - self.began
        return (self.jobs - finished) * elapsed / moved if moved > 0 else None


def fleet_table(status: FleetStatus, pace: Pace, done: int, failed: int) -> Table:
    """The running jobs, and the fleet as a whole.

    Args:
        status: Of the fleet.
        pace: Of this run.
        done: Jobs that ended in this run.
        failed: How many of them failed for good.
    """
    table = Table(box=None, padding=(0, 2), caption_justify="left")
    for column in ("job", "step", "progress", "loss", "tokens/s"):
        table.add_column(column, justify="left" if column in ("job", "progress") else "right")
    for name, row in list(status.running.items())[:MOST_ROWS]:
        if row is None:
            table.add_row(name, "", "starting")
        else:
            bar = ProgressBar(total=1.0, completed=row["progress"], width=20)
            table.add_row(name, str(row["step"]), bar, f"{row['loss']:.3f}", f"{_speed(row):,.0f}")
    rows = [row for row in status.running.values() if row is not None]
    left = pace.seconds_left(done + sum(row["progress"] for row in rows))
    parts = [
        f"{done - failed} done",
        f"{failed} failed" if failed else "",
        f"{len(status.running)} running",
        f"{status.waiting} waiting",
        lanes(status),
        f"{sum(map(_speed, rows)):,.0f} tokens/s",
        f"{left / 60:.0f} min left" if left is not None else "",
        status.note,
    ]
    table.caption = ", ".join(part for part in parts if part)
    return table


def describe(status: FleetStatus) -> str:
    """One line: what runs, and what waits."""
    running = ", ".join(
        f"{name} step {row['step']} loss {row['loss']:.2f}" if row else f"{name} starting"
        for name, row in list(status.running.items())[:MOST_ROWS]
    )
    # Stages that train and score go on when nothing is left to train.
    otherwise = "a lane is starting" if status.waiting or status.pending else "nothing to train, engines are at work"
    line = f"{running or otherwise} ({status.waiting} waiting, {lanes(status)})"
    return f"{line}; {status.note}" if status.note else line


def lanes(status: FleetStatus) -> str:
    """How many lanes work, and how many still wait for their resources."""
    count = f"{status.lanes} lane{'s' if status.lanes != 1 else ''}"
    return f"{count} ({status.pending} starting)" if status.pending else count


def _speed(row: dict[str, Any]) -> float:
    return row["tokens"] / row["seconds"] if row["seconds"] > 0 else 0.0
