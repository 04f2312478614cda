"""`summary`: what a user sees in the terminal at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taskpgm_ray.report import floor, held, noise
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.next_steps import advice, next_steps
from taskpgm_ray.report.text import amount, balance, duration, metric_name, number, percent, score

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MOST_TASKS = 25
MOST_TRIALS = 12
_BAR = 8


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
    parts += [Text(sentence) for sentence in held.sentences(data)]
    if data.insight is not None and data.insight.certainty:
        parts.append(Text(data.insight.certainty))
    if data.trials:
        parts.append(_trials(data))
        if chosen := noise.choice(data):
            parts.append(Text(f"\n{chosen}"))
    if data.verdict:
        parts.append(Text.assemble("\n", (data.verdict, "bold")))
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


def _mixture(data: ReportData) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    weights = data.weights
    at = "" if data.tau is None else f", tau = {balance(data.tau)}"
    shown = Table(title=Text(f"Mixture of {data.study}{at}"), title_justify="left", box=box.SIMPLE_HEAD)
    # Names stay whole where a usual terminal has room for them.
    shown.add_column("task", overflow="fold", min_width=min(30, max(map(len, data.names))))
    shown.add_column("mixture", justify="right")
    shown.add_column("")
    for name in data.baselines:
        shown.add_column(Text(name), justify="right")
    shown.add_column("examples", justify="right")
    order = np.argsort(-weights, kind="stable")
    for i in order[:MOST_TASKS]:
        bar = "█" * round(_BAR * weights[i] / weights.max()) or "▏"
        shown.add_row(
            Text(data.names[i]),
            percent(weights[i]),
            Text(bar, style="blue"),
            *(percent(w[i]) for w in data.baselines.values()),
            number(data.mixture["tasks"][i].get("count")),
        )
    if len(order) > MOST_TASKS:
        rest = order[MOST_TASKS:]
        counts = [data.mixture["tasks"][i].get("count") or 0 for i in rest]
        shown.add_row(
            Text(f"{len(rest)} other tasks", style="dim"),
            percent(weights[rest].sum()),
            "",
            *(percent(w[rest].sum()) for w in data.baselines.values()),
            number(sum(counts)),
        )
    return shown


def _trials(data: ReportData) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    other = "accuracy" if data.metric != "accuracy" else "gold_logprob"
    shown = Table(title="Trials on the search split", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("trial", overflow="fold")
    for title in ("tau", "seed", metric_name(data.metric), metric_name(other), "tokens"):
        shown.add_column(title, justify="right")
    shown.add_column("")
    ordered = data.ranked_trials()
    for trial in ordered[:MOST_TRIALS]:
        outcome = Text(f"failed: {trial.error}", style="red") if trial.error else Text("")
        if trial.stopped or trial.skipped:
            outcome = Text("stopped early" if trial.stopped else "not trained", style="dim")
        if trial.winner:
            outcome = Text("chosen", style="bold green")
        shown.add_row(
            Text(trial.name),
            balance(trial.tau),
            number(trial.seed),
            score(data.metric, trial.value(data.metric)),
            score(other, trial.value(other)),
            amount(trial.tokens),
            outcome,
        )
    if len(ordered) > MOST_TRIALS:
        shown.add_row(Text(f"{len(ordered) - MOST_TRIALS} more in the report", style="dim"), *[""] * 6)
    return shown
