"""What the base model, uniform and the winner write when they are asked a few items of the report split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskpgm_ray.evaluation import Split
from taskpgm_ray.evaluation.items import Item
from taskpgm_ray.judge.comparisons import BASE
from taskpgm_ray.judge.verdict import UNIFORM
from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import collect
from taskpgm_ray.runtime.run import Run, news_of
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.trials import Planner, asked_base, measured_by
from taskpgm_ray.storage import Unit, fingerprint

MOST_TOKENS = 40
"""Of an answer: enough for a number, a choice or a sentence."""
ANSWERS = "answers.json"


@dataclass(frozen=True)
class Sample:
    """One item, and what was written."""

    benchmark: str
    task: str
    question: str
    """The whole prompt."""
    target: str
    """The right answer."""
    answers: Mapping[str, str]
    """System -> text; the base model first, the winner last."""


def sample_answers(
    chosen: Candidate,
    methods: Mapping[str, Candidate],
    planner: Planner,
    report: Split,
    run: Run,
    only_finished: bool = False,
) -> list[Sample]:
    """Ask them, greedily; of uniform and the winner the fine-tunes with the search's first seed.

    Args:
        chosen: The winner, whose adapter has been handed over.
        methods: Method -> its best candidate.
        planner: Knows the fine-tunes.
        report: The report split.
        run: Engines.
        only_finished: Ask nothing that was not asked before.

    Returns:
        `evaluation.samples` items of each benchmark; none where that is 0, or where they were not asked.
    """
    items = _drawn(report.items(), planner.config.evaluation.samples, planner.config.seed)
    if not items:
        return []
    asked = [_Asked(BASE, None, _unit("base", asked_base(planner), items, planner, report))]
    candidates = [methods[UNIFORM]] if UNIFORM in methods and methods[UNIFORM].name != chosen.name else []
    for candidate in (*candidates, chosen):
        adapter = planner.job(candidate, planner.config.seed).unit
        folder = adapter.path.rpartition("/")[2]
        asked.append(_Asked(candidate.name, adapter, _unit(folder, adapter.path, items, planner, report)))
    if only_finished and not all(one.unit.done() for one in asked):
        return []
    with missing(run, "samples", asked) as (stage, todo):

        def on_done(one: _Asked, told: list[tuple[str, str]]) -> None:
            one.unit.files.write_json(ANSWERS, told)
            one.unit.finish({"system": one.system, "items": len(told)})
            stage.finished(f"{one.system}: {len(told)} answers")

        ids = [item.id for item in items]
        references = {run.evaluator.answers(one.adapter, report, ids, MOST_TOKENS): one for one in todo}
        collect(stage, references, on_done, lambda: "engines write answers", note=news_of(run, "pool"))
    told = {one.system: one.unit.files.read_json(ANSWERS) for one in asked}
    return [
        Sample(
            item.benchmark,
            item.task,
            told[BASE][k][0],
            f"{item.target}. {item.right_answer}" if item.benchmark == "mmlu" else item.target,
            {system: answers[k][1] for system, answers in told.items()},
        )
        for k, item in enumerate(items)
    ]


@dataclass(frozen=True)
class _Asked:
    system: str
    adapter: Unit | None
    unit: Unit


def _drawn(items: Sequence[Item], of_each: int, seed: int) -> list[Item]:
    """So many items of each benchmark, of different tasks as far as there are; a larger draw holds a smaller one."""
    ranked = sorted(items, key=lambda item: fingerprint("sample", seed, item.id))
    found: list[Item] = []
    for benchmark in dict.fromkeys(item.benchmark for item in items):
        of_it = [item for item in ranked if item.benchmark == benchmark]
        first = list({item.task: item for item in reversed(of_it)}.values())[::-1]
        rest = [item for item in of_it if item not in first]
        found += [*sorted(first, key=of_it.index), *rest][:of_each]
    return found


def _unit(folder: str, adapter: object, items: Sequence[Item], planner: Planner, report: Split) -> Unit:
    identity = fingerprint(
        "samples", adapter, report.path, [item.id for item in items], MOST_TOKENS, *measured_by(planner.config)
    )
    return Unit(planner.storage, f"samples/{folder}-{identity}")
