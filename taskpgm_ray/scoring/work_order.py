"""In what order units are scored, and which of them share a batch of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from taskpgm_ray.scoring.score import ScoreWork


def in_batches(
    works: Sequence[ScoreWork], size: Callable[[ScoreWork], int], budget: int, most: int
) -> list[list[ScoreWork]]:
    """Group units into batches, adapter by adapter: an engine keeps its adapters until all segments are done.

    Units of a batch are of the same segment and of different adapters, so that what is computed together with a unit's
    own rows is never another unit of the same adapter. The base model has batches of its own.

    Args:
        works: The units to score.
        size: Positions of a unit.
        budget: Positions that are enough for one batch; a larger unit is a batch by itself.
        most: Adapters that an engine holds at one time.
    """
    adapters = list(dict.fromkeys(work.adapter for work in works))
    rank = {adapter: i // most for i, adapter in enumerate(a for a in adapters if a is not None)} | {None: -1}
    segments = {path: i for i, path in enumerate(dict.fromkeys(work.segment.path for work in works))}
    ordered = sorted(works, key=lambda work: (rank[work.adapter], segments[work.segment.path]))
    made: list[list[ScoreWork]] = []
    held = 0
    for work in ordered:
        last = made[-1][-1] if made else None
        joins = (
            last is not None
            and work.adapter is not None
            and rank[work.adapter] == rank[last.adapter]
            and work.segment.path == last.segment.path
            and held + size(work) <= budget
        )
        if joins:
            made[-1].append(work)
            held += size(work)
        else:
            made.append([work])
            held = size(work)
    return made
