"""The outcome of a study as Markdown: what a repository keeps under ``docs/`` beside the command that made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from taskpgm_ray.report import noise
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.redundancy import planted
from taskpgm_ray.report.text import MISSING, balance, duration, metric_name, percent, score


def study_table(data: ReportData, command: str) -> str:
    """Every method against uniform, with intervals, by benchmark and by task; and how planted redundancy fared.

    Args:
        data: The report's data of a finished study.
        command: The command that makes this text again.
    """
    seconds = sum(stage["seconds"] for stage in data.stages)
    parts = [
        f"# {data.study}",
        f"Made by `{command}` ({duration(seconds)} in all stages).",
        _measured(data),
        f"**{data.verdict}**",
        "## The chosen mixture against every baseline",
        "Report split. Intervals are bootstrapped over items and seeds; p is Holm-adjusted over baselines; the "
        "smallest detectable difference is what a study of this size would show four times in five. The standard "
        "errors say what more items and what more seeds would narrow.",
        _comparisons(data.comparisons, "baseline"),
        "## Every method against uniform",
        "The same, Holm-adjusted over methods.",
        _comparisons(data.against_uniform, "system"),
        "## Scores by benchmark",
        "Report split, means over tasks: gold log-probability in nats / accuracy. MMLU's log-probability is that of "
        "the right letter among four: chance is -1.3863 and 25 %.",
        _by_benchmark(data),
        "## Scores by seed",
        "Report split, means over benchmarks.",
        _by_seed(data),
        "## What each mixture holds",
        _weights(data),
        *_budgets(data),
        "## Trials on the search split",
        *([said] if (said := noise.sentence(data)) else []),
        _trials(data),
        "## Scores by task",
        _by_task(data),
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
    text = f"{len(data.tasks)} tasks, {sum(task['probes'] for task in data.tasks)} probes"
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


def _comparisons(found: Iterable[Mapping[str, Any]], other: str) -> str:
    """Rows of comparisons; ``other`` is the key of what is different from row to row."""
    rows = [
        [
            row[other],
            row["scope"],
            metric_name(row["metric"]),
            score(row["metric"], row["difference"], signed=True),
            f"{score(row['metric'], row['low'], signed=True)} to {score(row['metric'], row['high'], signed=True)}",
            f"{row['p_value']:.3f}",
            score(row["metric"], row["minimum_detectable"]),
            score(row["metric"], row["item_error"]),
            score(row["metric"], row["seed_error"]),
            row["verdict"],
            f"{row['items']} × {row['seeds']}",
        ]
        for row in found
    ]
    header = ["on", "metric", "difference", "interval", "p", "detectable", "error: items", "seeds", "verdict"]
    return _table(["baseline" if other == "baseline" else "mixture", *header, "items × seeds"], rows)


def _by_benchmark(data: ReportData) -> str:
    if not data.by_task:
        return "No task was scored on the report split."
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in data.by_task))
    rows = []
    for system in data.by_task[0]["scores"]:
        means = []
        for benchmark in benchmarks:
            tasks = [row["scores"][system] for row in data.by_task if row["benchmark"] == benchmark]
            means.append({metric: fmean(task[metric] for task in tasks) for metric in ("gold_logprob", "accuracy")})
        overall = {metric: fmean(mean[metric] for mean in means) for metric in means[0]}
        rows.append([system, *map(_both, [*means, overall])])
    return _table(["mixture", *benchmarks, "all"], rows)


def _by_seed(data: ReportData) -> str:
    seeds = sorted({row["seed"] for row in data.by_seed})
    scores = {(row["system"], row["seed"]): _both(row) for row in data.by_seed}
    # The base model is scored once.
    rows = [
        [system, *(scores.get((system, seed), MISSING) for seed in seeds)]
        for system in dict.fromkeys(row["system"] for row in data.by_seed)
    ]
    return _table(["mixture", *(f"seed {seed}" for seed in seeds)], rows)


def _weights(data: ReportData) -> str:
    """The weights of every mixture that the report split judged."""
    judged = data.by_task[0]["scores"] if data.by_task else [t["name"] for t in data.trials]
    mixtures = {t["name"]: t["weights"] for t in data.trials if t["name"] in judged}
    rows = [
        [task["name"], *(percent(weights[index]) for weights in mixtures.values())]
        for index, task in enumerate(data.tasks)
    ]
    return _table(["task", *mixtures], rows)


def _budgets(data: ReportData) -> list[str]:
    if not data.budgets:
        return []
    rows = [
        [
            row["name"],
            str(row["tasks"]),
            percent(row["share"], 0),
            _both(row),
            *(
                [
                    score("gold_logprob", row["difference"], signed=True),
                    f"{score('gold_logprob', row['low'], signed=True)} to "
                    f"{score('gold_logprob', row['high'], signed=True)}",
                ]
                if row.get("difference") is not None
                else ["–", "–"]
            ),
        ]
        for row in data.budgets
    ]
    header = ["mixture", "tasks", "training", "scores", "against uniform with all", "interval"]
    return ["## Fewer tasks, less training", "Report split, all benchmarks.", _table(header, rows)]


def _both(scores: Mapping[str, float]) -> str:
    return f"{score('gold_logprob', scores['gold_logprob'])} / {score('accuracy', scores['accuracy'])}"


def _trials(data: ReportData) -> str:
    rows = [
        [
            trial["name"] + (" (chosen)" if trial.get("winner") else ""),
            balance(trial["tau"]),
            "–" if trial["seed"] is None else str(trial["seed"]),
            score("gold_logprob", trial.get("gold_logprob")),
            score("accuracy", trial.get("accuracy")),
            _why_unscored(trial),
        ]
        for trial in data.ranked_trials()
    ]
    return _table(["mixture", "tau", "seed", "gold log-probability", "accuracy", ""], rows)


def _why_unscored(trial: dict[str, Any]) -> str:
    if trial.get("stopped") or trial.get("skipped"):
        return "stopped early" if trial.get("stopped") else "not trained (screen)"
    return trial.get("error") or ""


def _by_task(data: ReportData) -> str:
    if not data.by_task:
        return "No task was scored on the report split."
    systems = list(data.by_task[0]["scores"])
    rows = [
        [
            row["benchmark"],
            row["task"],
            str(row["items"]),
            *(_both(row["scores"][s]) for s in systems),
        ]
        for row in data.by_task
    ]
    return _table(["benchmark", "task", "items", *systems], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
