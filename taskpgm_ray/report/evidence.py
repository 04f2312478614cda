"""The sections that say what the mixture rests on: affinities, adapters, coverage, cost, versions and config."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from taskpgm_ray.affinity.distributions import LEAST_COVERAGE
from taskpgm_ray.report import bandwidths, floor, halfway, matrices, probes
from taskpgm_ray.report.clustering import MOST_CELLS, Clustering
from taskpgm_ray.report.data import ReportData, TaskRow
from taskpgm_ray.report.next_steps import config_of, larger_support
from taskpgm_ray.report.page import Page, Section, note, paragraph, warning
from taskpgm_ray.report.tables import Cell, table
from taskpgm_ray.report.text import MISSING, amount, duration, listed, number, percent

MOST_LOW_CELLS = 50
MOST_TABLE_COLUMNS = 30
SETTLED = "settled by its question"


def affinity(data: ReportData, clustering: Clustering, page: Page) -> Section:
    """S, JSD and PMI as heat maps, and each task's nearest and farthest neighbour."""
    n = len(data.tasks)
    if n == 1:
        return Section("affinity", "Affinities", note("With a single task there is nothing to compare."))
    joined = f" Each cell is the mean over up to {-(-n // MOST_CELLS)} neighbouring tasks." if n > MOST_CELLS else ""
    kind, gamma = data.mixture.get("affinity", "jsd"), data.gamma
    unit = "squared nat" if kind.startswith("pmi") else "nat"
    width = f", gamma = {number(gamma)} per {unit}" if gamma is not None else ""
    if data.noise is not None:
        width += f", noise floor {number(data.noise.taken_off)}"
    panels = {
        "Affinity S": page.figure(
            "affinity",
            matrices.affinity(data, clustering),
            f"Affinity of each pair of tasks ({kind}{width}); 1 is the same behaviour. Tasks are ordered by average-"
            f"linkage clustering on the square root of JSD, drawn as the tree: blocks on the diagonal are families."
            + (" Frames are clusters, with their share of the mixture beside them." if data.insight else "")
            + joined,
        ),
        "JSD": page.figure(
            "divergence",
            matrices.divergence(data, clustering),
            "Mean Jensen-Shannon divergence of the adapters' predictions in nats, in the same order; 0 is the same "
            "behaviour, ln 2 = 0.693 the most." + joined,
        ),
    }
    missing = ""
    if data.pmi is None:
        missing = note("Pointwise mutual information was not computed.")
    else:
        panels["PMI"] = page.figure(
            "pmi",
            matrices.gains(data.pmi, "PMI", data, clustering),
            "Pointwise mutual information in nats: how much more likely the row's adapter makes the right answers of "
            "the column's task than the mean of all adapters of the pool does. Blue is above that mean, red below it, "
            "even where all adapters help; the matrix is not symmetric." + joined,
        )
    if data.lift is not None:
        panels["Lift"] = page.figure(
            "lift",
            matrices.gains(data.lift, "lift", data, clustering),
            "Lift in nats: how much more likely the row's adapter makes the right answers of the column's task than "
            "the base model does. Blue helps, red harms; the matrix is not symmetric." + joined,
        )
    panels["Neighbours"] = _neighbours(data)
    if data.bandwidths:
        shown: list[list[Cell | str]] = [[*line] for line in bandwidths.cells(data.bandwidths)]
        panels["Bandwidths"] = table(
            bandwidths.header(data.bandwidths), shown, "What other bandwidths see, and what they give to whom"
        )
    if n <= MOST_TABLE_COLUMNS:
        panels["JSD table"] = _divergences(data, clustering)
    sentences = (floor.sentence(data), probes.sentence(data), data.early, halfway.sentence(data))
    said = "".join(paragraph(text) for text in sentences if text)
    return Section("affinity", "Affinities", said + page.tabs("affinity", panels) + missing)


def _neighbours(data: ReportData) -> str:
    divergence = np.array(data.divergence, dtype=float)
    nearest = np.argmin(divergence + np.diag(np.full(len(divergence), np.inf)), axis=1)
    farthest = np.argmax(divergence, axis=1)
    mean = divergence.sum(axis=1) / (len(divergence) - 1)
    rows: list[list[Cell | str]] = []
    for i, name in enumerate(data.names):
        j, k = int(nearest[i]), int(farthest[i])
        error = [] if data.divergence_se is None else [_value(data.divergence_se[i, j])]
        rows.append(
            [name, data.names[j], _value(divergence[i, j]), *error, data.names[k], _value(divergence[i, k]),
             _value(mean[i])]
        )  # fmt: skip
    error_header = [] if data.divergence_se is None else ["± standard error"]
    header = ["task", "nearest", "JSD", *error_header, "farthest", "JSD (farthest)", "mean JSD"]
    return table(header, rows, "Nearest and farthest task of each task by JSD in nats")


def _divergences(data: ReportData, clustering: Clustering) -> str:
    rows: list[list[Cell | str]] = []
    for i in clustering.order:
        row: list[Cell | str] = [data.names[i]]
        for j in clustering.order:
            value = float(data.divergence[i, j])
            if data.divergence_se is None or i == j:
                row.append(Cell(f"{value:.3f}", value))
            else:
                error = float(data.divergence_se[i, j])
                row.append(Cell(f"{value:.3f} ± {error:.3f}", value, f"{value} ± {error}"))
        rows.append(row)
    header = ["task", *(data.names[j] for j in clustering.order)]
    return table(header, rows, "Mean JSD in nats of each pair of tasks, with standard errors")


def tasks(data: ReportData) -> Section:
    """Each task's data and what its own adapter learned."""
    rows: list[list[Cell | str]] = []
    unlearned: list[str] = []
    drops = [task.loss_drop for task in data.tasks]
    on_gpus = any(task.gpu_seconds for task in data.tasks)
    measured = any(task.usable for task in data.tasks)
    formal = [task.name for task in data.tasks if task.usable and not task.usable.shown]
    largest = max((d for d in drops if d is not None and math.isfinite(d)), default=0.0)
    for task, drop in zip(data.tasks, drops, strict=True):
        # Not "drop <= 0": a loss that became NaN is no success.
        learned = drop is None or drop > 0
        if not learned:
            unlearned.append(task.name)
        bar = drop / largest if learned and drop is not None and largest > 0 else None
        rows.append(
            [
                task.name,
                task.source or "",
                *(Cell(number(count), count) for count in (task.train, task.withheld, task.probes, task.cut)),
                *(_value(loss) for loss in (task.heldout_loss_before, task.heldout_loss_after)),
                Cell(number(drop), drop, bar=bar, mark=None if learned else "bad"),
                *([_settled(task)] if measured else []),
                Cell(amount(task.tokens), task.tokens),
                Cell(duration(task.seconds), task.seconds),
                *([Cell(duration(task.gpu_seconds), task.gpu_seconds)] if on_gpus else []),
            ]
        )
    header = [
        "task",
        "source",
        "train",
        "withheld",
        "probes",
        "cut",
        "loss before",
        "loss after",
        "drop",
        *([SETTLED] if measured else []),
        "tokens",
        "time",
        *(["GPU time"] if on_gpus else []),
    ]
    lost = (
        f"The adapter did not lower the held-out loss of its own task for: {listed(unlearned)}. What these adapters "
        "predict says little about their tasks."
    )
    settled = (
        f"{SETTLED.capitalize()}: how much better the adapter foretells an answer from its own question than from "
        "another probe's, as a share of what there was to be known, with its standard error. "
    )
    if formal:
        settled += (
            f"None is shown for {listed(formal)}: beyond what answers look like their adapters learned nothing that "
            "chance does not explain. Those answers may be wrong, or the tasks too hard for model and budget."
        )
    return Section(
        "tasks",
        "Tasks and their adapters",
        paragraph(
            "Loss is in nats per answer token on the task's own probes, which no adapter trained on: before with the "
            "base model, after with the task's own adapter. Withheld counts the examples that are not trained, because "
            "the pool probes them or holds them out, or the evaluation asks them. Cut counts the prompts that were too "
            "long and lost their beginning."
        )
        + (warning(lost) if unlearned else "")
        + (paragraph(settled) if measured else "")
        + "".join(warning(f"{name} was left out of the pool: {why}") for name, why in data.skipped.items())
        + table(header, rows, "Data, held-out loss and cost of each task's adapter"),
    )


def _settled(task: TaskRow) -> Cell:
    found = task.usable
    if found is None:
        return Cell(MISSING)
    said = f"{percent(found.share, 0)} ± {percent(found.share_error, 0)}"
    return Cell(said, found.share, f"{found.share} ± {found.share_error}")


def coverage(data: ReportData, clustering: Clustering, page: Page) -> Section:
    """How much of each predictive distribution the common support holds."""
    title = "Coverage of the support"
    if data.coverage is None:
        return Section("coverage", title, note("Coverage was not recorded."))
    mass = np.asarray(data.coverage, dtype=float)
    low = np.argwhere(mass < LEAST_COVERAGE)
    worst = low[np.argsort(mass[tuple(low.T)], kind="stable")]
    row, column = np.unravel_index(np.argmin(mass), mass.shape)
    lead = paragraph(
        f"On average {percent(mass.mean())} of the predicted probability lies on the tokens that are compared one by "
        f"one; the rest counts as one tail. The least is {percent(mass.min())}: adapter {data.coverage_names[row]} on "
        f"the probes of {data.names[column]}."
    ) + _bracket(data)
    alarm = ""
    if len(worst):
        narrower = (
            "a larger support (scoring.top_k) narrows them"
            if larger_support(config_of(data)) is not None
            else "the support is as large as a request of the engine allows"
        )
        alarm = warning(
            f"{len(worst)} of {mass.size} combinations keep less than {percent(LEAST_COVERAGE, 0)} of the mass on the "
            "support. The divergences of these adapters may be too small, by at most what the brackets say; "
            f"{narrower}."
        ) + table(
            ["adapter", "probes of", "mass on the support"],
            [
                [data.coverage_names[i], data.names[j], Cell(percent(mass[i, j], 2), float(mass[i, j]), mark="warn")]
                for i, j in worst[:MOST_LOW_CELLS]
            ],
            f"The {min(len(worst), MOST_LOW_CELLS)} combinations with the least mass on the support",
        )
    caption = "Mean probability mass on the support for each adapter (rows, the base model on top) and task's probes."
    return Section(
        "coverage", title, lead + alarm + page.figure("coverage", matrices.coverage(data, clustering), caption)
    )


def _bracket(data: ReportData) -> str:
    """What the tail leaves open about the divergences."""
    if data.divergence_upper is None or len(data.tasks) < 2:
        return ""
    pairs = np.triu_indices(len(data.tasks), 1)
    lower, upper = np.asarray(data.divergence)[pairs], np.asarray(data.divergence_upper)[pairs]
    widest = int(np.argmax(upper - lower))
    i, j = (int(index[widest]) for index in pairs)
    # The affinity of PMI and that of the tasks' words are not made of divergences.
    use = ", from which S is made" if str(data.mixture.get("affinity", "jsd")).startswith("jsd") else ""
    return paragraph(
        f"Over the whole vocabulary the mean divergence of a pair lies between {lower.mean():.3f} nats (support and "
        f"tail{use}) and {upper.mean():.3f} (tails that have nothing in common). The widest bracket "
        f"is that of {data.names[i]} and {data.names[j]}: {lower[widest]:.3f} to {upper[widest]:.3f}."
    )


def cost(data: ReportData) -> Section:
    """Seconds and tokens of each stage, and what was found finished."""
    if not data.stages:
        return Section("cost", "Cost", note("The cost of the stages was not recorded."))
    seconds = [stage.seconds or 0.0 for stage in data.stages]
    tokens = sum(stage.tokens or 0 for stage in data.stages)
    longest = max(seconds) or 1.0
    rows: list[list[Cell | str]] = [
        [
            stage.stage,
            Cell(duration(stage.seconds), stage.seconds, bar=used / longest),
            Cell(amount(stage.tokens), stage.tokens),
            Cell(number(stage.done), stage.done),
            Cell(number(stage.reused), stage.reused),
        ]
        for stage, used in zip(data.stages, seconds, strict=True)
    ]
    return Section(
        "cost",
        "Cost",
        paragraph(f"{duration(sum(seconds))} and {amount(tokens)} tokens in all.")
        + table(
            ["stage", "time", "tokens", "units done", "units reused"], rows, "Time, tokens and units of each stage"
        ),
    )


def record(data: ReportData) -> Section:
    """What is needed to repeat the study."""
    parts = []
    if data.versions:
        rows: list[list[Cell | str]] = [[name, version] for name, version in data.versions.items()]
        parts.append(f"<details><summary>Versions</summary>{table(['what', 'version'], rows, 'Versions')}</details>")
    if data.config_yaml:
        parts.append(
            f"<details><summary>Resolved config</summary><pre><code>{escape(data.config_yaml)}</code></pre></details>"
        )
    return Section("record", "Versions and config", "".join(parts) or note("Versions and config were not recorded."))


def _value(value: float | None) -> Cell:
    return Cell(number(value), None if value is None else float(value))
