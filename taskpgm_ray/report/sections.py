"""The sections that say what came out: the headline, the mixture, its path, the search and the comparison."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from taskpgm_ray.report import carriers, figures, held, merges, noise, regression, score_figures, system_scores
from taskpgm_ray.report.data import ReportData, TrialRow
from taskpgm_ray.report.next_steps import advice, next_steps
from taskpgm_ray.report.page import Page, Section, note, paragraph, warning
from taskpgm_ray.report.tables import Cell, table
from taskpgm_ray.report.text import MISSING, amount, balance, duration, interval, metric_name, number, percent, score

if TYPE_CHECKING:
    from taskpgm_ray.judge.comparisons import Comparison
    from taskpgm_ray.judge.rows import BudgetScores


def headline(data: ReportData) -> str:
    """The verdict, the mixture in a line, and the study in six numbers."""
    heaviest = [(data.names[i], data.weights[i]) for i in np.argsort(-data.weights, kind="stable") if data.weights[i]]
    named = ", ".join(f"{name} {percent(weight)}" for name, weight in heaviest[:6])
    if len(heaviest) > 6:
        named += f", and {len(heaviest) - 6} more"
    seconds = [stage.seconds for stage in data.stages if stage.seconds is not None]
    tokens = [stage.tokens for stage in data.stages if stage.tokens is not None]
    tiles = {
        "tasks": number(len(data.tasks)),
        "effective tasks": number(data.effective_tasks),
        "balance tau": balance(data.tau),
        "tasks in the mixture": number(int((data.weights > 0).sum())),
        "tokens": amount(sum(tokens)) if tokens else MISSING,
        "time in all stages": duration(sum(seconds)) if seconds else MISSING,
    }
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in tiles.items() if text != MISSING
    )
    verdict = data.verdict or "The mixture was computed; nothing judged it."
    return (
        f'<h1>TaskPGM · {escape(data.study)}</h1><p class="verdict">{escape(verdict)}</p>'
        f'<p class="lead">{escape(named)}</p><dl class="tiles">{shown}</dl>'
    )


def what_to_do(data: ReportData) -> Section:
    """The advice, and a list of steps with their commands."""
    steps = "".join(f"<li>{escape(s.what)}: <code>{escape(s.command)}</code></li>" for s in next_steps(data))
    return Section(
        "next",
        "What to do",
        f'{paragraph(advice(data))}<ol class="steps">{steps}</ol>'
        + note("A line that begins with a config key is added to the command that ran the study; all else is reused."),
    )


def mixture(data: ReportData, page: Page) -> Section:
    """The mixture beside the baselines, and the counts that realise it."""
    weights, n = data.weights, len(data.tasks)
    top = int(np.argmax(weights))
    caption = (
        f"Share of each task, heaviest first: {data.names[top]} gets {percent(weights[top])}, where uniform gives "
        f"{percent(1 / n)}. {_zero_sentence(int((weights == 0).sum()))}"
    )
    if data.baselines:
        caption += f" The ticks mark the baselines: {', '.join(data.baselines)}."
    if n > figures.MOST_BARS:
        caption += f" Drawn are the {figures.MOST_BARS} heaviest of {n} tasks; the table has all of them."
    entries = data.mixture["tasks"]
    heavy = float(weights.max())
    rows = [
        [
            entry["name"],
            Cell(percent(entry["weight"], 2), entry["weight"], bar=entry["weight"] / heavy),
            *(Cell(percent(w[i], 2), float(w[i])) for w in data.baselines.values()),
            _plain(entry.get("count")),
            _plain(entry.get("available")),
            Cell(number(entry.get("epochs")), entry.get("epochs")),
        ]
        for i, entry in sorted(enumerate(entries), key=lambda pair: -pair[1]["weight"])
    ]
    facts = [f"{number(data.mixture['examples'])} examples in all"] if "examples" in data.mixture else []
    facts += [f"{what} = {number(data.mixture[key])}" for key, what in _FACTS if data.mixture.get(key) is not None]
    return Section(
        "mixture",
        "The mixture",
        page.figure("mixture", figures.mixture_bars(data), caption)
        + table(
            ["task", "mixture", *data.baselines, "examples", "available", "epochs"],
            rows,
            "Weight of each task in the mixture and in the baselines, and the examples that realise it",
        )
        + (paragraph("; ".join(facts) + ".") if facts else "")
        + "".join(paragraph(sentence) for sentence in held.sentences(data)),
    )


_FACTS = (
    ("beta_over_lambda", "beta/lambda"),
    ("energy", "energy"),
    ("gap", "certified duality gap"),
)


def path(data: ReportData, page: Page) -> Section:
    """How the mixture changes with the balance."""
    title = "The mixture over the balance"
    if data.path_tau is None or data.path_weights is None:
        return Section("path", title, note("The path of mixtures was not computed."))
    caption = f"Each band is a task's share of the mixture as the balance tau grows: {_along(data)}."
    if data.tau is not None:
        caption += f" The line marks the chosen balance, tau = {balance(data.tau)}."
    if data.path_tried:
        caption += " Triangles mark the balances that were tried."
    return Section("path", title, page.figure("path", figures.path_bands(data), caption))


def _along(data: ReportData) -> str:
    """What happens along the path, of which some mixtures do not depend on the balance and others have no uniform."""
    tau, weights = np.asarray(data.path_tau), np.asarray(data.path_weights)
    even = 1 / len(data.tasks)
    if np.allclose(weights, even):
        return "it is uniform at every balance"
    at_one = np.array([np.interp(1.0, tau, column) for column in weights.T])
    if tau[0] <= 1 <= tau[-1] and np.allclose(at_one, even, atol=1e-6):
        return (
            "at tau = 0 only diversity counts, at 1 the mixture is uniform, beyond it tasks that resemble many others "
            "take over"
        )
    return "at tau = 0 only diversity counts, and the larger it is the more the tasks' utility does"


def search(data: ReportData, page: Page) -> Section:
    """Every trial with its scores on the search split."""
    title = "Trials"
    if not data.trials:
        return Section("trials", title, note("No search was run: the balance was given, and no mixture was tried out."))
    metrics = [m for m in (data.metric, *_METRICS) if any(t.value(m) is not None for t in data.trials)]
    metrics = list(dict.fromkeys(metrics))
    ordered = data.ranked_trials()
    rows: list[list[Cell | str]] = [
        [
            trial.name,
            _outcome(trial),
            Cell(balance(trial.tau), trial.tau),
            _plain(trial.seed),
            *(_score(m, trial.value(m)) for m in metrics),
            _plain(trial.items),
            Cell(amount(trial.tokens), trial.tokens),
            Cell(duration(trial.seconds), trial.seconds),
        ]
        for trial in ordered
    ]
    chosen = [i for i, trial in enumerate(ordered) if trial.winner]
    header = ["trial", "outcome", "tau", "seed", *map(metric_name, metrics), "items", "tokens", "time"]
    shown = table(header, rows, "Scores of every trial on the search split, best first", chosen=chosen)
    failed = sum(1 for trial in data.trials if trial.error)
    plot = ""
    if metrics:
        caption = (
            f"Scores on the search split against the balance (higher is better); {metric_name(data.metric)} decides. "
            "Dashed lines are the baselines. Gold log-probability is the mean log-probability of the right answer."
        )
        plot = page.figure("scores", score_figures.scores(data), caption)
    problem = (
        paragraph(f"{failed} of {len(data.trials)} trials failed; their errors are in the table.") if failed else ""
    )
    merged = "".join(paragraph(said) for said in merges.sentences(data))
    return Section("trials", title, plot + problem + _noise(data) + shown + merged + _regression(data))


def _noise(data: ReportData) -> str:
    said = " ".join(filter(None, (noise.choice(data), noise.sentence(data))))
    return paragraph(said) if said else ""


def _regression(data: ReportData) -> str:
    said = regression.sentence(data)
    return paragraph(said) if said else ""


MARKS = {"better": "good", "worse": "bad"}
"""Verdict -> how a table marks it."""
_METRICS = ("gold_logprob", "accuracy", "mmlu_accuracy", "bbh_accuracy", "mmlu_gold_logprob", "bbh_gold_logprob")


def comparison(data: ReportData, page: Page) -> Section:
    """The mixture against the baselines on items that the search never saw."""
    title = "Against the baselines"
    if not data.comparisons:
        return Section("comparison", title, note("No comparison on the report split was made."))
    rows = [_comparison_row(one) for one in (*data.comparisons, *data.over_base)]
    caption = (
        "Mixture minus baseline on the report split, which the search never saw, with confidence intervals (none with "
        "one fine-tune each). Colours are the verdicts, adjusted for the number of baselines (Holm): green, the "
        "mixture is better; red, it is worse; grey, no difference is shown. The base model was not fine-tuned."
    )
    header = [
        "baseline",
        "on",
        "metric",
        "difference",
        "interval",
        "p",
        "verdict",
        "smallest detectable",
        "items",
        "seeds",
    ]
    return Section(
        "comparison",
        title,
        "".join(warning(f"The baseline {name} was not tried: {why}.") for name, why in data.left_out.items())
        + page.figure("comparison", score_figures.comparisons(data), caption)
        + table(header, rows, "Difference of the mixture to each baseline on the report split")
        + _by_system(data)
        + "".join(paragraph(said) for said in (carriers.weighing(data), carriers.sentence(data)) if said)
        + _by_task(data),
    )


def _by_system(data: ReportData) -> str:
    """Scores of every mixture and of the base model, by benchmark."""
    found = system_scores.system_scores(data)
    if not found:
        return ""
    header = [f"{name} ({unit})" for name in (*system_scores.benchmarks(data), "all") for unit in ("nats", "accuracy")]
    rows: list[list[Cell | str]] = [
        [row.system, *(_score(metric, means[metric]) for means in (*row.benchmarks, row.all) for metric in _BOTH)]
        for row in found
    ]
    return table(["mixture", *header], rows, "Scores of all mixtures and of the base model on the report split")


_BOTH = ("gold_logprob", "accuracy")


def _comparison_row(one: Comparison) -> list[Cell | str]:
    result = one.result
    return [
        one.baseline,
        one.scope,
        metric_name(result.metric),
        Cell(score(result.metric, result.difference, signed=True), result.difference, mark=MARKS.get(one.verdict)),
        interval(result.metric, result.low, result.high),
        Cell(f"{one.p_value:.3f}", one.p_value),
        one.verdict,
        Cell(
            score(result.metric, result.minimum_detectable, signed=True).lstrip("+"),
            result.minimum_detectable if math.isfinite(result.minimum_detectable) else None,
        ),
        _plain(result.items),
        _plain(result.seeds),
    ]


def _by_task(data: ReportData) -> str:
    """Scores of every system on every task, behind a fold: many rows, each of few items."""
    if not data.by_task:
        return ""
    systems = list(data.by_task[0].scores)
    rows: list[list[Cell | str]] = [
        [
            row.benchmark,
            row.task,
            _plain(row.items),
            *(_score(data.metric, row.scores[s][data.metric]) for s in systems),
        ]
        for row in data.by_task
    ]
    header = ["benchmark", "task", "items", *systems]
    shown = table(header, rows, "Scores of all mixtures and of the base model by task of the report split")
    return f"<details><summary>Every task ({metric_name(data.metric)})</summary>{shown}</details>"


def budgets(data: ReportData) -> Section:
    """Fewer tasks, and less training."""
    title = "Fewer tasks, less training"
    if not data.budgets:
        return Section("budgets", title, note("Neither numbers of tasks nor parts of the budget were compared."))
    rows: list[list[Cell | str]] = [
        [
            row.name,
            _plain(row.tasks),
            Cell(percent(row.share, 0), row.share),
            _score("gold_logprob", row.gold_logprob),
            _score("accuracy", row.accuracy),
            *_against_uniform(row),
        ]
        for row in data.budgets
    ]
    header = [
        "mixture",
        "tasks",
        "training",
        metric_name("gold_logprob"),
        metric_name("accuracy"),
        "against uniform",
        "interval",
    ]
    return Section(
        "budgets",
        title,
        paragraph("Report split; the difference is to uniform mixing of all tasks with the full training budget.")
        + table(header, rows, "Scores of mixtures of fewer tasks, and of parts of the training budget"),
    )


def _against_uniform(row: BudgetScores) -> list[Cell | str]:
    if row.difference is None:
        return ["", ""]
    difference = Cell(score("gold_logprob", row.difference, signed=True), row.difference)
    return [difference, interval("gold_logprob", row.low, row.high)]


def _zero_sentence(count: int) -> str:
    if not count:
        return "Every task takes part."
    return "One task gets nothing." if count == 1 else f"{count} tasks get nothing."


def _plain(value: Any) -> Cell:
    return Cell(number(value), value)


def _score(metric: str, value: float | None) -> Cell:
    return Cell(score(metric, value), value)


def _outcome(trial: TrialRow) -> Cell:
    if trial.error:
        return Cell(f"failed: {trial.error}", mark="bad")
    if trial.stopped:
        return Cell("stopped early", title="others were better at a smaller budget")
    if trial.skipped:
        return Cell("not trained", title="by its merge it could not have been the best")
    return Cell("chosen", mark="good") if trial.winner else Cell("")
