"""What to do with a study's result, and what would make it surer: drawn from its facts, a command for each."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from scipy.stats import nct
from scipy.stats import t as student

from taskpgm_ray.affinity.distributions import LEAST_COVERAGE
from taskpgm_ray.config import MOST_TOKENS, MOST_TOP_K
from taskpgm_ray.evaluation.statistics import NOT_SHOWN, POWER
from taskpgm_ray.judge.looks import confidence_with_most
from taskpgm_ray.mixture.constraints import USUAL_EPOCHS
from taskpgm_ray.report import probes
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import balance, duration, interval, level, listed, number, percent, score
from taskpgm_ray.storage import Storage
from taskpgm_ray.workload import FIRST_LOOK

if TYPE_CHECKING:
    from taskpgm_ray.evaluation.statistics import PairedDifference
    from taskpgm_ray.judge.comparisons import Comparison

MOST_SEEDS = 60
"""More fine-tunes than that nobody makes for one comparison."""
EDGE = 0.02
"""Part of the range of balances that counts as its edge."""
MOST_NAMED = 5
"""Tasks that a step names."""
LEAST_NAMED = 0.0005
"""Weight from which the advice names a task: less reads as 0.0 %."""


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    what: str
    command: str
    """Of the shell; what begins with a config key is added to the command that ran the study."""


def advice(data: ReportData) -> str:
    """What to train on, what it gains and how sure that is, in a sentence or two."""
    better = data.mixture.get("recommended", "taskpgm")
    heaviest = [i for i in np.argsort(-data.weights, kind="stable") if data.weights[i] >= LEAST_NAMED]
    named = ", ".join(f"{data.names[i]} {percent(data.weights[i])}" for i in heaviest[:3])
    named += ", ..." if len(heaviest) > 3 else ""
    versus = _against_uniform(data)
    if better == "taskpgm":
        said = f"Train on the mixture of this study ({named})."
    elif better == "uniform":
        said = "Train on all tasks in equal shares: the mixture was not shown to be better."
    else:
        said = f"Train on the baseline {better}: nothing was shown to be better."
    if versus is not None:
        r = versus.result
        sure = (
            f", {level(r.confidence)} interval {interval(r.metric, r.low, r.high)}, {r.seeds} fine-tunes each"
            if math.isfinite(r.low)
            else ", one fine-tune each, which is no verdict"
        )
        unit = "" if r.metric == "accuracy" else " nats"
        said += f" Against uniform it scored {score(r.metric, r.difference, signed=True)}{unit}{sure}."
    spent = [stage.seconds for stage in data.stages if stage.seconds is not None]
    return f"{said} The study took {duration(sum(spent))}." if spent else said


def next_steps(data: ReportData) -> list[Step]:
    """What follows from the facts, the most useful first; the last is how to train on the result."""
    config = config_of(data)
    found = [
        *_skipped(data, config),
        *_seeds(data, config),
        *_range(data, config),
        *_contrast(data, config),
        *_formal(data, config),
        *_stability(data, config),
        *_precision(data, config),
        *_coverage(data, config),
        *_repeats(data, config),
        *_left_out(data, config),
    ]
    return [*found, Step("Hand the examples to a trainer", f"taskpgm export trl {_folder(data, config)} out/")]


def config_of(data: ReportData) -> dict[str, Any]:
    """The resolved config that the study was run with; empty where it is not known."""
    read = yaml.safe_load(data.config_yaml)
    return read if isinstance(read, dict) else {}


def _folder(data: ReportData, config: dict[str, Any]) -> str:
    """The study's folder or URI, as a shell takes it."""
    return shlex.quote(_place(data, config))


def _place(data: ReportData, config: dict[str, Any]) -> str:
    storage = str(config.get("storage", "runs"))
    # The options of a URI stay behind the study's name; a relative folder stays relative.
    return (Storage(storage) / data.study).uri if "://" in storage else f"{storage.rstrip('/')}/{data.study}"


def _against_uniform(data: ReportData) -> Comparison | None:
    deciding = [c for c in data.comparisons if c.result.metric == data.metric and c.scope == "all"]
    return next((c for c in deciding if c.baseline == "uniform"), None)


def _skipped(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    if data.skipped:
        yield Step(
            f"{len(data.skipped)} tasks failed and are in no mixture ({', '.join(list(data.skipped)[:5])}). When the "
            "cause is mended, have them tried again and run the study once more",
            f"taskpgm clean {_folder(data, config)} --failed --yes",
        )


def _seeds(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    versus = _against_uniform(data)
    if versus is None:
        return
    r = versus.result
    if r.seeds == 1:
        yield Step("One fine-tune each is no verdict; three make one, five a better one", "evaluation.report_seeds=5")
        return
    evaluated = config.get("evaluation", {})
    if versus.verdict != NOT_SHOWN or r.high - r.low <= (evaluated.get("smallest_effect") or 0.0):
        return
    confidence = evaluated.get("confidence", r.confidence)
    seeds, both = (_that_show(r, confidence, items_too) for items_too in (False, True))
    size = score(r.metric, abs(r.difference))
    if seeds is not None:
        yield Step(
            f"If the difference to uniform is as large as it seems ({size}), about {seeds} fine-tunes each show it",
            _more_seeds(seeds, r, evaluated),
        )
    elif both is not None:
        yield Step(
            f"If the difference to uniform is as large as it seems ({size}), about {both / r.seeds:.1f} times the "
            "questions and fine-tunes show it",
            f"{_more_seeds(both, r, evaluated)} {_more_items(config)}",
        )
    elif r.item_error > r.seed_error:
        yield Step("The report's items are the larger part of the noise: ask more of them", _more_items(config))
    else:
        yield Step(
            f"A difference as small as the one seen ({size}) is not worth the fine-tunes that would show it: use "
            "uniform, or give the tasks larger budgets, where redundancy costs more",
            "finetune.steps=... search.steps=...",
        )


def _that_show(r: PairedDifference, confidence: float, items_too: bool) -> int | None:
    """The fewest seeds at which a t test shows a true difference of this size with probability `POWER`.

    Of the variance only the seeds' part falls with more seeds; all of it falls with more of both. ``None``: more than
    `MOST_SEEDS`.
    """
    for seeds in range(max(r.seeds, FIRST_LOOK) + 1, MOST_SEEDS + 1):
        fewer = math.sqrt(r.seeds / seeds)
        error = math.hypot(r.item_error * (fewer if items_too else 1.0), r.seed_error * fewer)
        critical = student.ppf((1 + confidence_with_most(seeds, confidence)) / 2, seeds - 1)
        if error == 0 or nct.sf(critical, seeds - 1, abs(r.difference) / error) >= POWER:
            return seeds
    return None


def _more_seeds(seeds: int, r: PairedDifference, evaluated: dict[str, Any]) -> str:
    """With ``auto``: another look at the same fine-tunes, and more, would be one that nobody counts."""
    most = f"evaluation.most_report_seeds={seeds}"
    if evaluated.get("report_seeds") == "auto":
        return most
    return f"evaluation.report_seeds=auto evaluation.smallest_effect={abs(r.difference):.2g} {most}"


def _more_items(config: dict[str, Any]) -> str:
    """The settings of the benchmarks that are evaluated."""
    evaluated = config.get("evaluation", {})
    sizes = {
        "mmlu": (True, "subject"),
        "bbh": (True, "task"),
        "lm_eval": (False, "task"),
        "own_tasks": (False, "data_set"),
    }
    asked = dict.fromkeys(of for name, (usual, of) in sizes.items() if evaluated.get(name, usual))
    return " ".join(f"evaluation.report_items_per_{of}=..." for of in asked)


def _range(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    tried = [trial.tau for trial in data.trials if trial.kind == "balance" and trial.tau is not None]
    if data.tau is None or len(set(tried)) < 2:
        return
    low, high = config.get("search", {}).get("tau", [min(tried), max(tried)])
    if data.tau >= high - EDGE * (high - low):
        yield Step(
            f"The chosen balance, tau = {balance(data.tau)}, is the largest that was tried: look further",
            f"search.tau=[{low:g},{2 * high:g}]",
        )
    elif data.tau <= low + EDGE * (high - low) and low > 0:
        yield Step(
            f"The chosen balance, tau = {balance(data.tau)}, is the smallest that was tried: look further",
            f"search.tau=[0,{high:g}]",
        )


def _contrast(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    if data.noise is not None and not data.noise.contrast:
        yield Step(
            "The tasks' adapters do not stand out of the luck of their seeds: train them longer", _longer(config)
        )
    elif data.insight is not None and data.insight.uniform and not probes.falls_short(data):
        more = f"pool.probes_per_task={2 * _kept(config)}"
        if data.spared and data.precision is not None:
            more = f"scoring.probes_precision={data.precision.ratio / 2:.2g}"
        yield Step("The weights cannot be told from uniform: measure the affinities on more probes", more)


def _precision(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    if not probes.falls_short(data):
        return
    assert data.precision is not None
    assert data.wanted_precision is not None
    ratio, wanted = (percent(part) for part in (data.precision.ratio, data.wanted_precision))
    short = f"With all probes the divergences' standard error is {ratio} of what they differ by, and {wanted} was asked"
    count = probes.needed(data, _kept(config))
    if count is None:
        yield Step(f"{short}: as precise as that they cannot be made", "scoring.probes_precision=...")
    else:
        yield Step(f"{short}: keep about {count} of each task", f"pool.probes_per_task={count}")


def _kept(config: dict[str, Any]) -> int:
    return int(config.get("pool", {}).get("probes_per_task", 16))


def _formal(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    tasks = [task for task in data.tasks if task.usable and not task.usable.shown]
    if not tasks:
        return
    lowest = sorted(tasks, key=lambda task: task.usable.share if task.usable else 0.0)
    named = listed([task.name for task in lowest], MOST_NAMED)
    # A config is read from this machine's files alone: of a study in a bucket it is the user's own.
    remote = "://" in str(config.get("storage", "runs"))
    file = "..." if remote else shlex.quote(f"{_place(data, config)}/config.yaml")
    yield Step(
        f"Nothing shows that the answers of {named} hang on their questions, as the adapters learned them: read "
        "examples, as answers may be wrong, or train longer",
        f"taskpgm tasks --config {file} --examples 5",
    )


def _stability(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    if data.stability is not None and not data.stability.holds:
        yield Step(
            f"The second half of the steps moved {percent(data.stability.moved)} of the mixture: train the tasks' own "
            "adapters longer, until it stays",
            _longer(config),
        )


def _longer(config: dict[str, Any]) -> str:
    """The setting by which the pool's own adapters are trained twice as long."""
    for of, section in (
        ("affinity.finetune", config.get("affinity", {}).get("finetune")),
        ("finetune", config.get("finetune")),
    ):
        for budget in ("steps", "tokens"):
            if section and section.get(budget):
                return f"{of}.{budget}={2 * section[budget]}"
    return "finetune.tokens=..."


def _coverage(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    if data.coverage is not None and float(data.coverage.min()) < LEAST_COVERAGE:
        more = larger_support(config)
        if more is not None:
            yield Step(
                f"Some predictions put only {percent(float(data.coverage.min()))} on the tokens that are compared: "
                "compare more of them",
                f"scoring.top_k={more}",
            )


def larger_support(config: dict[str, Any]) -> int | None:
    """About twice the study's ``scoring.top_k``, or as much more as an engine's request takes; ``None``: no more."""
    scoring = config.get("scoring", {})
    top, own = int(scoring.get("top_k", 94)), int(scoring.get("answer_tokens", 32))
    # Of the tokens of a request one is the gold token.
    more = min(2 * top, MOST_TOKENS - 1 - own, MOST_TOP_K)
    return more if more > top else None


def _repeats(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    most = max(((t.get("epochs") or 0.0), t["name"]) for t in data.mixture["tasks"])
    if most[0] > USUAL_EPOCHS * (1 + 1e-9):
        # Where shares are of tokens, the study's own number is of examples of the pool's mean length.
        whole = config.get("mixture", {}).get("examples", data.mixture["examples"])
        fits = math.floor(whole * USUAL_EPOCHS / most[0])
        yield Step(
            f"{most[1]} would be repeated {number(most[0])} times: so many examples keep it to {USUAL_EPOCHS:g}",
            f"mixture.examples={fits}",
        )


def _left_out(data: ReportData, config: dict[str, Any]) -> Iterator[Step]:
    tried = [str(name) for name in config.get("search", {}).get("baselines", [])]
    # It may be one of another name, have failed, or be the mixture itself: asking for it again changes nothing.
    if "uniform" in tried or "uniform" in data.left_out:
        return
    if data.comparisons and not any(c.baseline == "uniform" for c in data.comparisons):
        yield Step(
            "Nothing was compared with uniform, the baseline that is hardest to beat",
            f"search.baselines=[{','.join([*tried, 'uniform'])}]",
        )
