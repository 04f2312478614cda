"""Scoring and comparing in turn, on more and more probes, until the divergences are precise.

With ``scoring.probes: all`` there is one round. What a round has scored and compared is found again, so that a run
that was ended in between goes on from there, and one that came to its end does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.affinity.precision import LEAST_PROBES, Precision, precision
from taskpgm_ray.affinity.stage import compare
from taskpgm_ray.runtime.run import Run
from taskpgm_ray.scoring.stage import ScoredSegment
from taskpgm_ray.tasks.prepare import Task

Score = Callable[[int], list[ScoredSegment]]
"""Scores so many probes of each task, or all that it has: `taskpgm_ray.scoring.stage.score_pool`."""


def compare_in_rounds(score: Score, tasks: Sequence[Task], run: Run) -> tuple[list[ScoredSegment], Affinities]:
    """The segments of the round that was the last one, and the affinities by them, without their noise floor.

    Args:
        score: Called once a round.
        tasks: The pool.
        run: Storage, cluster and progress; its config says which rounds there are, and what is enough.

    Raises:
        TaskPGMError: See `score_pool` and `compare`.
    """
    scoring, names = run.config.scoring, [task.name for task in tasks]
    *earlier, most = scoring.rounds(max(task.facts.probes for task in tasks))
    for count in earlier:
        segments = score(count)
        probes = sum(min(count, task.facts.probes) for task in tasks)
        if probes < LEAST_PROBES:
            _say(run, f"{count} probes a task, {probes} in all, are too few to judge; more are scored")
            continue
        found = compare(segments, names, run)
        reached = precision(found.divergence, found.divergence_se)
        enough = reached.ratio <= scoring.probes_precision
        _say(run, f"{count} of {most} probes a task: {told(reached)}; {'enough' if enough else 'more are scored'}")
        if enough:
            return segments, found
    segments = score(most)
    found = compare(segments, names, run)
    if scoring.probes == "adaptive":
        reached = precision(found.divergence, found.divergence_se)
        short = reached.ratio > scoring.probes_precision
        end = f"not {scoring.probes_precision:g}, and no more are kept" if short else "enough"
        _say(run, f"all {most} probes a task: {told(reached)}; {end}")
    return segments, found


def told(reached: Precision) -> str:
    """A precision in words."""
    return f"standard error {reached.error:.4f} nats, {reached.ratio:.3g} of the spread of {reached.spread:.4f}"


def _say(run: Run, text: str) -> None:
    run.progress.console.print(f"  [dim]probes[/]  {text}", soft_wrap=True, highlight=False)
