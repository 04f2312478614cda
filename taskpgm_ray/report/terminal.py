"""`summary`: what a user sees in the terminal at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taskpgm_ray.report import floor, halfway, held, noise
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.next_steps import advice, next_steps
from taskpgm_ray.report.system_scores import over_base
from taskpgm_ray.report.text import amount, balance, duration, metric_name, number, percent, score
from taskpgm_ray.runtime.fitted_table import FittedTable

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_TASKS = 25
MOST_TRIALS = 12
_BAR = 8
SHORT = {"gold_logprob": "nats", "accuracy": "accuracy"}
"""Metrics as the head of a column; gold log-probabilities are in nats."""


def summary(data: ReportData, files: dict[str, str] | None = None) -> RenderableType:
    """The verdict, the mixture beside the baselines, the trials and the files, for ``rich.print``.

    Args:
        data: The report's data.
        files: What lies where, for example ``{"report": "runs/quickstart/report.html"}``.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_mixture(data)]
    if rests_on := floor.sentence(data):
        parts.append(Text(rests_on))
    if data.early:
        parts.append(Text(data.early))
    if data.stability is not None and not data.stability.holds:
        parts.append(Text(halfway.sentence(data)))
    parts += [Text(sentence) for sentence in held.sentences(data)]
    if data.insight is not None and data.insight.certainty:
        parts.append(Text(data.insight.certainty))
    if data.trials:
        parts.append(_trials(data))
        parts += [Text(f"{name} failed: {why}", style="red") for name, why in _failures(data).items()]
        if len(data.trials) > MOST_TRIALS:
            parts.append(Text(f"{len(data.trials) - MOST_TRIALS} more in the report", style="dim"))
        if chosen := noise.choice(data):
            parts.append(Text(f"\n{chosen}"))
    if data.verdict:
        parts.append(Text.assemble("\n", (data.verdict, "bold")))
    if gained := over_base(data):
        parts.append(Text(gained))
    parts.append(Text(f"\n{advice(data)}"))
    parts += [Text(f"  {step.what}: {step.command}", style="cyan") for step in next_steps(data)]
    parts += [Text(f"{name} was left out of the pool: {why}", style="yellow") for name, why in data.skipped.items()]
    parts += [Text(f"The baseline {name} was not tried: {why}.", style="yellow") for name, why in data.left_out.items()]
    seconds = {stage.stage: stage.seconds for stage in data.stages if stage.seconds is not None}
    if seconds:
        slowest = max(seconds, key=lambda stage: seconds[stage])
        parts.append(Text(f"{duration(sum(seconds.values()))} in all; longest: {slowest}.", style="dim"))
    for what, where in (files or {}).items():
        # Not markup: a path may hold square brackets. Folded rather than cut: a path is there to be copied.
        parts.append(Text.assemble((f"{what}: ", "dim"), where, overflow="fold"))
    return Group(*parts)


def _failures(data: ReportData) -> dict[str, str]:
    """Why trials failed, once each."""
    return {trial.name: trial.error for trial in data.trials if trial.error}


def _mixture(data: ReportData) -> FittedTable:
    from rich.text import Text

    weights = data.weights
    at = "" if data.tau is None else f", tau = {balance(data.tau)}"
    shown = FittedTable(f"Mixture of {data.study}{at}")
    shown.column("task", 9, text=True)
    shown.column("mixture", 8)
    shown.column("", 3, text=True)
    for k, name in enumerate(data.baselines):
        shown.column(name, 5 - min(k, 4))
    shown.column("examples", 7)
    order = np.argsort(-weights, kind="stable")
    for i in order[:MOST_TASKS]:
        bar = "█" * round(_BAR * weights[i] / weights.max()) or "▏"
        shown.row(
            data.names[i],
            percent(weights[i]),
            Text(bar, style="blue"),
            *(percent(w[i]) for w in data.baselines.values()),
            number(data.mixture["tasks"][i].get("count")),
        )
    if len(order) > MOST_TASKS:
        rest = order[MOST_TASKS:]
        counts = [data.mixture["tasks"][i].get("count") or 0 for i in rest]
        shown.row(
            Text(f"{len(rest)} other tasks", style="dim"),
            percent(weights[rest].sum()),
            "",
            *(percent(w[rest].sum()) for w in data.baselines.values()),
            number(sum(counts)),
        )
    return shown


def _trials(data: ReportData) -> FittedTable:
    from rich.text import Text

    other = "accuracy" if data.metric != "accuracy" else "gold_logprob"
    shown = FittedTable("Trials on the search split")
    shown.column("trial", 9, text=True)
    for title, stays in (("tau", 3), ("seed", 5), (SHORT.get(data.metric, metric_name(data.metric)), 8)):
        shown.column(title, stays)
    shown.column(SHORT.get(other, metric_name(other)), 4)
    shown.column("tokens", 2)
    shown.column("outcome", 6)
    ordered = data.ranked_trials()
    for trial in ordered[:MOST_TRIALS]:
        outcome = Text("failed" if trial.error else "", style="red")
        if trial.stopped or trial.skipped:
            outcome = Text("stopped early" if trial.stopped else "not trained", style="dim")
        if trial.winner:
            outcome = Text("chosen", style="bold green")
        shown.row(
            trial.name,
            balance(trial.tau),
            number(trial.seed),
            score(data.metric, trial.value(data.metric)),
            score(other, trial.value(other)),
            amount(trial.tokens),
            outcome,
        )
    return shown
