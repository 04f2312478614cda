"""What a run shows while it works, and what each stage cost.

Every finished piece of work is one printed line, so that a log file and a terminal show the same; a terminal gets a
live line as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner

from taskpgm_ray.errors import DamagedFileError
from taskpgm_ray.runtime.cluster import root_cause
from taskpgm_ray.storage import Storage

STAGES = "stages.json"
QUIET_SECONDS = 30.0
"""A log that nobody watches live gets a line about what is going on at least so often."""
FIRST_SECONDS = 2.0
"""The first such line of a stage comes after so long."""
LEAST_LEFT = 60.0
"""Seconds left of a stage from which it says so."""
NEWS_SECONDS = 2.0
"""How often those who work are asked what holds them up."""

W = TypeVar("W")


@dataclass(frozen=True)
class StageCost:
    """What one stage has cost over all runs of a study; ``None``: not recorded."""

    stage: str
    seconds: float | None = None
    tokens: int | None = None
    done: int | None = None
    """Units of work that were done."""
    reused: int | None = None
    """Units that were found finished."""


@dataclass
class Stage:
    """One running stage: how much there is to do, and how much is done."""

    name: str
    total: int
    reused: int
    console: Console
    done: int = 0
    tokens: int = 0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def finished(self, text: str, tokens: int = 0) -> None:
        """One more piece of work is finished; ``text`` says which, and how it came out."""
        self.done += 1
        self.tokens += tokens
        width = len(str(self.total))
        line = f"  [dim]{self.name}[/] {self.done + self.reused:>{width}}/{self.total}  {escape(text)}{self._left()}"
        self._say(line)

    def _left(self) -> str:
        """Pace since the stage began, its start-up included, and what the rest then takes; nothing of short stages."""
        spent, rest = time.monotonic() - self.began, self.total - self.reused - self.done
        left = spent / self.done * rest
        if left < LEAST_LEFT:
            return ""
        pace = f"{self.tokens / spent:,.0f} tokens/s, " if self.tokens else ""
        return f" [dim]({pace}about {left / 60:.0f} min left)[/]"

    def note(self, text: str) -> None:
        """What is going on, between two finished pieces of work."""
        self._say(f"  [dim]{escape(text)}[/]")

    def _say(self, line: str) -> None:
        """A line: whole in a log, where it is searched; broken between words in a terminal, where it is read."""
        self.console.print(line, soft_wrap=not self.console.is_terminal, highlight=False)


class News:
    """What holds up those who work, said once, when it begins: a storage that fails, a process that hangs."""

    def __init__(self, stage: Stage, ask: Callable[[], str]) -> None:
        self.stage, self.ask = stage, ask
        self.last = ""
        self.asked = time.monotonic()

    def tell(self) -> None:
        """Ask, unless that was only now, and print the answer if it is a new one."""
        if time.monotonic() - self.asked < NEWS_SECONDS:
            return
        answer, self.asked = self.ask(), time.monotonic()
        if answer and answer != self.last:
            self.stage.note(answer)
        self.last = answer


class Progress:
    """Prints stages, and keeps the seconds and tokens of each in the study's ``stages.json``."""

    def __init__(self, storage: Storage, console: Console | None = None) -> None:
        self.storage = storage
        self.console = console or Console()

    @contextmanager
    def stage(self, name: str, total: int, reused: int = 0) -> Iterator[Stage]:
        """Run one stage; its cost is added to that of earlier runs of the same study."""
        stage = Stage(name, total, reused, self.console)
        todo = total - reused
        note = f"{reused} of {total} already there" if reused else f"{total} to do"
        self.console.print(
            f"[bold]{name}[/]: {note if todo else 'nothing to do'}" + (f", {todo} to do" if reused and todo else "")
        )
        started = time.perf_counter()
        try:
            yield stage
        finally:
            if todo:
                seconds = time.perf_counter() - started
                self.console.print(f"  [dim]{name}: {seconds:.0f} s[/]")
                self._record(stage, seconds)

    def stages(self) -> list[StageCost]:
        """Cost of every stage over all runs of the study."""
        return [StageCost(name, **cost) for name, cost in self._costs().items()]

    def _costs(self) -> dict[str, dict[str, Any]]:
        try:
            return self.storage.read_json(STAGES) if self.storage.exists(STAGES) else {}
        except DamagedFileError as error:
            self.console.print(f"[yellow]{escape(str(error))}; the costs of earlier runs are lost[/]", soft_wrap=True)
            return {}

    def _record(self, stage: Stage, seconds: float) -> None:
        costs = self._costs()
        old = costs.get(stage.name, {"seconds": 0.0, "tokens": 0, "done": 0})
        costs[stage.name] = {
            "seconds": round(old["seconds"] + seconds, 1),
            "tokens": old["tokens"] + stage.tokens,
            "done": old["done"] + stage.done,
        }
        self.storage.write_json(STAGES, costs)


def collect(
    stage: Stage,
    references: Mapping[Any, W],
    on_done: Callable[[W, Any], None],
    status: Callable[[], str],
    on_error: Callable[[W, BaseException], None] | None = None,
    view: Callable[[], RenderableType] | None = None,
    note: Callable[[], str] = lambda: "",
) -> None:
    """Wait for Ray object references in whatever order they finish; with none, return at once.

    Args:
        stage: Whose work this is; shows the line.
        references: Reference -> the work that it stands for.
        on_done: Called with the work and the result.
        status: One line about what is going on, for a log.
        on_error: Called with the work and the exception that a user can act upon; by default that is raised.
        view: What a terminal shows live, asked for every second; by default the line.
        note: What holds the work up, empty if nothing does; printed when it changes.
    """
    if not references:
        return
    import ray

    open_references, console = dict(references), stage.console
    # The first of these lines comes soon: whoever starts something wants to know that it has begun.
    spoken, news = time.monotonic() + FIRST_SECONDS - QUIET_SECONDS, News(stage, note)
    with Live(console=console, transient=True) if console.is_terminal else nullcontext() as live:
        while open_references:
            ready, _ = ray.wait(list(open_references), num_returns=1, timeout=1.0)
            for reference in ready:
                work = open_references.pop(reference)
                spoken = time.monotonic()
                try:
                    result = ray.get(reference)
                except Exception as error:  # Ray wraps whatever the remote side raised
                    if on_error is None:
                        raise root_cause(error) from error
                    on_error(work, root_cause(error))
                else:
                    on_done(work, result)
            news.tell()
            if live is not None and open_references:
                live.update(view() if view is not None else Spinner("dots", status()))
            elif time.monotonic() - spoken > QUIET_SECONDS:
                stage.note(status())
                spoken = time.monotonic()
