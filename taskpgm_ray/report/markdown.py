"""The outcome of a study as Markdown: what a repository keeps under ``docs/`` beside the command that made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from taskpgm_ray.report import bandwidths, carriers, floor, halfway, held, insight, noise, regression
from taskpgm_ray.report.data import ReportData, TrialRow
from taskpgm_ray.report.next_steps import advice, next_steps
from taskpgm_ray.report.redundancy import planted
from taskpgm_ray.report.system_scores import benchmarks, system_scores
from taskpgm_ray.report.text import MISSING, balance, duration, interval, metric_name, percent, score

if TYPE_CHECKING:
    from taskpgm_ray.judge.comparisons import Comparison


MMLU = " MMLU's log-probability is that of the right letter among four: chance is -1.3863 and 25 %."


def study_table(data: ReportData, command: str) -> str:
    """Every method against uniform, with intervals, by benchmark and by task; and how planted redundancy fared.

    Args:
        data: The report's data of a finished study.
        command: The command that makes this text again.
    """
    seconds = sum(stage.seconds or 0.0 for stage in data.stages)
    asked_mmlu = "mmlu" in benchmarks(data)
    parts = [
        f"# {data.study}",
        f"Made by `{command}` ({duration(seconds)} in all stages).",
        _measured(data),
        *filter(None, [floor.sentence(data), data.early, halfway.sentence(data)]),
        f"**{data.verdict}**",
        "## What to do",
        advice(data),
        "\n".join(f"- {step.what}: `{step.command}`" for step in next_steps(data)),
        "## The chosen mixture against every baseline",
        "Report split. Intervals are bootstrapped over items and seeds; p is Holm-adjusted over baselines; the "
        "smallest detectable difference is what a study of this size would show four times in five. The standard "
        "errors say what more items and what more seeds would narrow.",
        _comparisons([*data.comparisons, *data.over_base], "baseline"),
        *(f"The baseline {name} was not tried: {why}." for name, why in data.left_out.items()),
        *([carried] if (carried := carriers.sentence(data)) else []),
        "## Every method against uniform",
        "The same, Holm-adjusted over methods.",
        _comparisons(data.against_uniform, "system"),
        "## Scores by benchmark",
        *filter(None, [carriers.weighing(data)]),
        "Report split, means over tasks: gold log-probability in nats / accuracy." + (MMLU if asked_mmlu else ""),
        _by_benchmark(data),
        "## Scores by seed",
        "Report split, means over benchmarks.",
        _by_seed(data),
        "## What each mixture holds",
        _weights(data),
        *held.sentences(data),
        *insight.markdown(data),
        *_budgets(data),
        "## Trials on the search split",
        *filter(None, (noise.choice(data), noise.sentence(data), regression.sentence(data))),
        _trials(data),
        "## Scores by task",
        _by_task(data),
    ]
    if data.bandwidths:
        parts += [
            "## Bandwidths",
            "What the affinities see at other bandwidths, and what the mixtures then give.",
            _table(bandwidths.header(data.bandwidths), bandwidths.cells(data.bandwidths)),
        ]
    if planted(data):
        parts += [
            "## Planted redundancy",
            "Divergences in nats. Weights at tau = 0: of all parts, and of the first in a pool without the others.",
            _redundancy(data),
        ]
    return "\n\n".join(parts) + "\n"


def _measured(data: ReportData) -> str:
    """What the affinities rest on."""
    spared = f"{data.probes_scored} of " if data.spared else ""
    text = f"{len(data.tasks)} tasks, {spared}{data.probes} probes"
    if data.gamma is not None:
        text += f"; gamma = {data.gamma:.3g}"
    if data.divergence_se is not None:
        text += f"; standard error of a divergence (JSD) at most {data.divergence_se.max():.4f} nats"
    return text + "."


def _redundancy(data: ReportData) -> str:
    header = [
        "data set",
        "parts",
        "JSD within, at most",
        "to others, at least",
        "weight of the parts",
        "as one task",
        "ratio",
    ]
    rows = [
        [
            one.name,
            str(one.parts),
            f"{one.within:.4f}",
            f"{one.nearest:.4f}",
            percent(one.share),
            percent(one.share_as_one),
            f"{one.share / one.share_as_one:.2f}" if one.share_as_one > 0 else MISSING,
        ]
        for one in planted(data)
    ]
    return _table(header, rows)


def _comparisons(found: Iterable[Comparison], other: Literal["baseline", "system"]) -> str:
    """Rows of comparisons; ``other`` is what is different from row to row."""
    rows = [
        [
            one.baseline if other == "baseline" else one.system,
            one.scope,
            metric_name(one.result.metric),
            score(one.result.metric, one.result.difference, signed=True),
            interval(one.result.metric, one.result.low, one.result.high),
            f"{one.p_value:.3f}",
            score(one.result.metric, one.result.minimum_detectable),
            score(one.result.metric, one.result.item_error),
            score(one.result.metric, one.result.seed_error),
            one.verdict,
            f"{one.result.items} × {one.result.seeds}",
        ]
        for one in found
    ]
    header = ["on", "metric", "difference", "interval", "p", "detectable", "error: items", "seeds", "verdict"]
    return _table(["baseline" if other == "baseline" else "mixture", *header, "items × seeds"], rows)


def _by_benchmark(data: ReportData) -> str:
    if not data.by_task:
        return "No task was scored on the report split."
    rows = [
        [row.system, *(_both(means["gold_logprob"], means["accuracy"]) for means in (*row.benchmarks, row.all))]
        for row in system_scores(data)
    ]
    return _table(["mixture", *benchmarks(data), "all"], rows)


def _by_seed(data: ReportData) -> str:
    seeds = sorted({row.seed for row in data.by_seed})
    scores = {(row.system, row.seed): _both(row.gold_logprob, row.accuracy) for row in data.by_seed}
    # The base model is scored once.
    rows = [
        [system, *(scores.get((system, seed), MISSING) for seed in seeds)]
        for system in dict.fromkeys(row.system for row in data.by_seed)
    ]
    return _table(["mixture", *(f"seed {seed}" for seed in seeds)], rows)


def _weights(data: ReportData) -> str:
    """The weights of every mixture that the report split judged."""
    systems = list(data.by_task[0].scores) if data.by_task else []
    trained: dict[str, list[Sequence[float]]] = {}
    for trial in data.trials:
        if trial.name in systems or not systems:
            trained.setdefault(trial.name, []).append(trial.weights)
    drawn = [name for name, found in trained.items() if not np.allclose(found, found[0], atol=1e-6)]
    mixtures = {name: found[0] for name, found in trained.items() if name not in drawn}
    if not any(trial.winner for trial in data.trials):
        # A maximum of the fitted curve is no trial; the chosen mixture is the first system.
        chosen = systems[0] if systems else "chosen"
        mixtures = {chosen: data.weights.tolist()} | mixtures
    rows = [
        [task.name, *(percent(weights[index]) for weights in mixtures.values())]
        for index, task in enumerate(data.tasks)
    ]
    text = _table(["task", *mixtures], rows)
    return text + "".join(f"\n\nEach seed of {name} is a mixture of its own." for name in drawn)


def _budgets(data: ReportData) -> list[str]:
    if not data.budgets:
        return []
    rows = [
        [
            row.name,
            str(row.tasks),
            percent(row.share, 0),
            _both(row.gold_logprob, row.accuracy),
            *(
                [MISSING, MISSING]
                if row.difference is None
                else [
                    score("gold_logprob", row.difference, signed=True),
                    interval("gold_logprob", row.low, row.high),
                ]
            ),
        ]
        for row in data.budgets
    ]
    header = ["mixture", "tasks", "training", "scores", "against uniform with all", "interval"]
    return ["## Fewer tasks, less training", "Report split, all benchmarks.", _table(header, rows)]


def _both(gold_logprob: float, accuracy: float) -> str:
    return f"{score('gold_logprob', gold_logprob)} / {score('accuracy', accuracy)}"


def _trials(data: ReportData) -> str:
    rows = [
        [
            trial.name + (" (chosen)" if trial.winner else ""),
            balance(trial.tau),
            MISSING if trial.seed is None else str(trial.seed),
            score("gold_logprob", trial.gold_logprob),
            score("accuracy", trial.accuracy),
            _why_unscored(trial),
        ]
        for trial in data.ranked_trials()
    ]
    return _table(["mixture", "tau", "seed", "gold log-probability", "accuracy", ""], rows)


def _why_unscored(trial: TrialRow) -> str:
    if trial.stopped or trial.skipped:
        return "stopped early" if trial.stopped else "not trained (screen)"
    return trial.error or ""


def _by_task(data: ReportData) -> str:
    if not data.by_task:
        return "No task was scored on the report split."
    systems = list(data.by_task[0].scores)
    rows = [
        [
            row.benchmark,
            row.task,
            str(row.items),
            *(_both(row.scores[s]["gold_logprob"], row.scores[s]["accuracy"]) for s in systems),
        ]
        for row in data.by_task
    ]
    return _table(["benchmark", "task", "items", *systems], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
