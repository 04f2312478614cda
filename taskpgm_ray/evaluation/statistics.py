"""Is one system better than another on the same items, by how much and how surely: a paired bootstrap.

The difference is that of `summarise`: a mean over items within a task, over tasks within a benchmark, over benchmarks.
Tasks are fixed; items are reweighted within their task, and repetitions of the fine-tune (seeds) as a second, crossed
factor (Owen & Eckles 2012, "Bootstrapping data arrays of arbitrary order"), which errs on the side of wider intervals.
Three corrections keep small studies honest. Deviations are scaled by sqrt(n / (n - 1)) (Rao & Wu 1988, "Resampling
inference with complex survey data"): uncorrected, 90 % intervals over tasks of two items covered the truth in 72 % of
simulated studies. Weights are normal with the tails of Student's t, where a plain bootstrap counts how often each of n
was drawn: three seeds that dominate the noise then gave 70 %, and a task of two items with a third of the weight, of
which a resample has three values only, false verdicts in 15 % instead of 5. And what belongs to one item in one
fine-tune alone is not counted in full with both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import nct

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation.scores import EVEN, METRICS, ItemScore, Weights, task_shares

BETTER, WORSE = "better", "worse"
NOT_SHOWN = "no difference shown"
ONE_SEED = "one seed: no verdict"
"""One fine-tune each cannot tell a better mixture from a lucky seed."""
POWER = 0.8
"""The minimum detectable effect is the difference that would be shown in so many of repeated studies."""
TAKEN_OUT = 0.5
"""Part of that chance which is taken out: it is estimated from few seeds, and intervals shall err on the wide side."""
MANY = 200
"""Degrees of freedom from which Student's t is as good as normal."""
FEW_ITEMS, MUCH_WEIGHT = 10, 0.1
"""Fewer items of one task are too few where they have more of the weight: the interval is theirs, and wide."""
_CHUNK = 500

Floats = NDArray[np.float64]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class PairedDifference:
    """The difference a - b of two systems in one metric (positive: a is better)."""

    metric: str
    difference: float
    low: float
    """Lower end of the interval; minus infinity with one seed."""
    high: float
    """Upper end of the interval; infinity with one seed."""
    p_value: float
    """Two-sided tail of the bootstrap distribution beyond zero; at least 1 / (resamples + 1), and 1 with one seed."""
    item_error: float
    """Standard error from the spread over items within their tasks: falls with more items."""
    seed_error: float
    """Standard error from the spread over seeds: falls with more fine-tunes; 0 where there is one."""
    minimum_detectable: float
    """True difference that a study of this size would show with probability 0.8 at this confidence; infinite with one
    seed."""
    confidence: float
    items: int
    seeds: int
    """Repetitions per system (the smaller number). With one, luck in fine-tuning is unknown: there is no interval."""

    @property
    def standard_error(self) -> float:
        """From both spreads, in closed form."""
        return hypot(self.item_error, self.seed_error)


@dataclass(frozen=True)
class _ItemSpread:
    """What the items' spread does to a difference."""

    error: float
    """Standard error."""
    lasting: float
    """Share of the seen variance over items that other seeds would show as well."""
    freedom: float
    """Degrees of freedom of the error: few where a few items have much of the weight."""


def paired_difference(
    a: Sequence[ItemScore],
    b: Sequence[ItemScore],
    confidence: float = 0.95,
    seed: int = 0,
    *,
    metric: str = "gold_logprob",
    n_boot: int = 10_000,
    weights: Weights = EVEN,
) -> PairedDifference:
    """Compare two systems that were scored on the same items.

    Args:
        a: Rows of the first system; one per item, or one per item and seed.
        b: Rows of the second system. Seeds that both systems share are resampled together, others independently.
        confidence: Of the percentile interval.
        seed: Of the bootstrap.
        metric: ``gold_logprob`` (nats) or ``accuracy``.
        n_boot: Number of resamples.
        weights: Of benchmarks and tasks, as in `summarise`.

    Raises:
        EvaluationError: The systems were not scored on the same items (or not on all of them with every seed), an item
            occurs twice, a benchmark has fewer than two items, or an argument is out of range.
    """
    if metric not in METRICS or not 0 < confidence < 1 or n_boot < 1:
        raise EvaluationError(
            f"metric {metric!r} (of {METRICS}), confidence {confidence}, n_boot {n_boot}: out of range"
        )
    items, seeds_a, values_a = _table(a, metric, "first")
    items_b, seeds_b, values_b = _table(b, metric, "second")
    if items != items_b:
        odd = sorted(set(items) ^ set(items_b))
        raise EvaluationError(
            f"the two systems were not scored on the same items: {len(odd)} items, such as {'/'.join(odd[0])}, have "
            "one score only; evaluate both on the same split"
        )
    seeds = min(len(seeds_a), len(seeds_b))
    share = _shares(items, weights)
    difference = float(share @ (values_a.mean(0) - values_b.mean(0)))
    strata, same_seeds = _strata(items), seeds_a == seeds_b
    spread = _item_spread(values_a, values_b, same_seeds, share, strata)
    seed_error = _seed_error(values_a, values_b, same_seeds, share)
    low, high, p_value, detectable = -np.inf, np.inf, 1.0, np.inf
    if seeds > 1:
        rng = np.random.default_rng(seed)
        draws = _resample(values_a, values_b, same_seeds, share, strata, spread, rng, n_boot)
        low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
        beyond = int(min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0)))
        p_value = min(1.0, 2 * (beyond + 1) / (n_boot + 1))
        repetitions = seeds - 1 if same_seeds else len(seeds_a) + len(seeds_b) - 2
        detectable = _detectable(float(high - low) / 2, spread, seed_error, repetitions)
    return PairedDifference(
        metric=metric,
        difference=difference,
        low=float(low),
        high=float(high),
        p_value=p_value,
        item_error=spread.error,
        seed_error=seed_error,
        minimum_detectable=detectable,
        confidence=confidence,
        items=len(items),
        seeds=seeds,
    )


def verdict(result: PairedDifference, p_value: float | None = None) -> str:
    """`BETTER`, `WORSE`, `NOT_SHOWN` or `ONE_SEED`, for the first system of a comparison.

    Args:
        result: The comparison.
        p_value: A p-value adjusted for several comparisons (`holm`), which must then be below 1 - confidence as well.
    """
    if result.seeds < 2:
        return ONE_SEED
    if p_value is not None and p_value > 1 - result.confidence:
        return NOT_SHOWN
    if result.low > 0:
        return BETTER
    return WORSE if result.high < 0 else NOT_SHOWN


def few_items(counts: Mapping[tuple[str, str], int], weights: Weights = EVEN) -> dict[tuple[str, str], float]:
    """The share in the total of each (benchmark, task) that has too few items for it.

    Args:
        counts: Items of each (benchmark, task).
        weights: Of benchmarks and tasks, as in `summarise`.
    """
    shares = task_shares(counts, weights)
    return {task: share for task, share in shares.items() if counts[task] < FEW_ITEMS and share > MUCH_WEIGHT}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for making all these comparisons at once (Holm 1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _table(rows: Sequence[ItemScore], metric: str, which: str) -> tuple[list[Key], list[int], Floats]:
    """Items in a fixed order, seeds, and the values [n_seeds, n_items]."""
    values: dict[tuple[int, Key], float] = {}
    for row in rows:
        key = (row.benchmark, row.task, row.item)
        if (row.seed, key) in values:
            raise EvaluationError(f"the {which} system has two scores of item {'/'.join(key)} with seed {row.seed}")
        values[row.seed, key] = getattr(row, metric)
    items = sorted({key for _, key in values})
    seeds = sorted({seed for seed, _ in values})
    if len(values) != len(items) * len(seeds):
        raise EvaluationError(
            f"the {which} system has {len(values)} scores for {len(items)} items and {len(seeds)} seeds; every item "
            "must be scored with every seed"
        )
    table = np.array([[values[seed, key] for key in items] for seed in seeds], dtype=np.float64)
    if not np.all(np.isfinite(table)):
        raise EvaluationError(f"the {which} system has scores that are not finite")
    return items, seeds, table


def _shares(items: list[Key], weights: Weights) -> Floats:
    """The weight [n_items] of each item in the macro mean; they sum to 1."""
    counts = Counter((benchmark, task) for benchmark, task, _ in items)
    shares = task_shares(counts, weights)
    return np.array([shares[benchmark, task] / counts[benchmark, task] for benchmark, task, _ in items])


def _strata(items: list[Key]) -> list[NDArray[np.intp]]:
    """Indices of the items that are resampled among each other: a task, or the one-item tasks of a benchmark."""
    by_task: dict[tuple[str, str], list[int]] = {}
    for index, (benchmark, task, _) in enumerate(items):
        by_task.setdefault((benchmark, task), []).append(index)
    strata = []
    for benchmark in sorted({benchmark for benchmark, _ in by_task}):
        groups = sorted((group for (name, _), group in by_task.items() if name == benchmark), key=len)
        # One item shows no spread: collapse such tasks into one stratum, and a lone one with the next smallest task.
        if len(groups) > 1 and len(groups[0]) == 1:
            alone = [group for group in groups if len(group) == 1]
            rest = groups[len(alone) :]
            joined = [index for group in alone for index in group] + (rest.pop(0) if len(alone) == 1 else [])
            groups = [*rest, joined]
        if len(groups[0]) < 2:
            raise EvaluationError(f"{benchmark} has one item only: a comparison needs at least two")
        strata += [np.array(group) for group in groups]
    return strata


def _resample(
    values_a: Floats,
    values_b: Floats,
    same_seeds: bool,
    share: Floats,
    strata: list[NDArray[np.intp]],
    spread: _ItemSpread,
    rng: np.random.Generator,
    n_boot: int,
) -> Floats:
    """Bootstrap distribution [n_boot] of the macro mean difference."""
    draws = np.empty(n_boot)
    for start in range(0, n_boot, _CHUNK):
        size = min(_CHUNK, n_boot - start)
        weights_a = _seed_weights(len(values_a), size, rng)
        weights_b = weights_a if same_seeds else _seed_weights(len(values_b), size, rng)
        gap = weights_a @ values_a - weights_b @ values_b
        # One tail for all strata of a draw: it is their sum that is a Student's t.
        tails = np.sqrt(spread.lasting) * _tails(spread.freedom, size, rng)
        total = np.zeros(size)
        for stratum in strata:
            n = len(stratum)
            contribution = gap[:, stratum] * share[stratum]
            total += n * (contribution * _weights(n, tails, rng)).sum(1)
        draws[start : start + size] = total
    return draws


def _seed_weights(n: int, size: int, rng: np.random.Generator) -> Floats:
    return _weights(n, _tails(n - 1, size, rng), rng) if n > 1 else np.ones((size, 1))


def _weights(n: int, tails: Floats, rng: np.random.Generator) -> Floats:
    """Weights [size, n] of n >= 2 values, each row summing to 1.

    A mean under them is normal around the values' own, with its standard error times ``tails`` [size, 1].
    """
    noise = rng.standard_normal((len(tails), n))
    noise -= noise.mean(1, keepdims=True)
    return 1 / n + tails * noise / np.sqrt(n * (n - 1))


def _tails(freedom: float, size: int, rng: np.random.Generator) -> Floats:
    """Factors [size, 1] that make a normal variable a Student's t with so many degrees of freedom."""
    return np.sqrt(freedom / rng.chisquare(freedom, size=(size, 1)))


def _detectable(half_width: float, spread: _ItemSpread, seed_error: float, repetitions: int) -> float:
    """The true difference that is shown with probability `POWER`: the noncentrality of a t test, times its error.

    The interval's half width is itself an estimate, which with few seeds is as often far too small as far too large; a
    normal distribution around it promises 10 % too much at three seeds. Degrees of freedom after Satterthwaite: the
    seeds' ``repetitions`` where they dominate, the items' where those do.
    """
    error = hypot(spread.error, seed_error)
    if error == 0:
        return half_width
    critical = half_width / error
    freedom = 1 / ((seed_error / error) ** 4 / repetitions + (spread.error / error) ** 4 / spread.freedom)
    if freedom > MANY:
        return error * (critical + NormalDist().inv_cdf(POWER))
    return error * float(brentq(lambda shift: nct.sf(critical, freedom, shift) - POWER, 0.0, 10 * critical + 10))


def _item_spread(
    values_a: Floats, values_b: Floats, same_seeds: bool, share: Floats, strata: list[NDArray[np.intp]]
) -> _ItemSpread:
    """How far items that differ for good move the difference.

    What an item and a fine-tune have in common by chance varies over items too, but averages out over seeds, whose
    spread holds it already: it is taken out of the items', as in the analysis of variance of a crossed design.
    """
    contributions = share * (values_a.mean(0) - values_b.mean(0))
    variances = np.array([len(stratum) * contributions[stratum].var(ddof=1) for stratum in strata])
    seen = float(variances.sum())
    passing = 0.0
    for table in _repetitions(values_a, values_b, same_seeds):
        if len(table) > 1:
            rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
            passing += float((share**2 * (rest**2).sum(0)).sum() / (len(table) * (len(table) - 1)))
    lasting = max(0.0, 1 - TAKEN_OUT * passing / seen) if seen > 0 else 0.0
    # Two items that happen to agree look precise and have no weight in their own degrees of freedom: those that the
    # items' weights alone would give, if all items varied alike, are the most that is believed.
    freedom = _freedom(np.array([(share[stratum] ** 2).sum() for stratum in strata]), strata)
    if seen > 0:
        freedom = min(freedom, _freedom(variances, strata))
    return _ItemSpread(float(np.sqrt(lasting * seen)), lasting, freedom)


def _freedom(variances: Floats, strata: list[NDArray[np.intp]]) -> float:
    """Degrees of freedom of a sum of variances, each with those of its stratum (Satterthwaite 1946)."""
    shares = variances / variances.sum()
    return float(1 / sum(share**2 / (len(stratum) - 1) for share, stratum in zip(shares, strata, strict=True)))


def _seed_error(values_a: Floats, values_b: Floats, same_seeds: bool, share: Floats) -> float:
    repeated = _repetitions(values_a, values_b, same_seeds)
    return float(np.sqrt(sum((table @ share).var(ddof=1) / len(table) for table in repeated if len(table) > 1)))


def _repetitions(values_a: Floats, values_b: Floats, same_seeds: bool) -> list[Floats]:
    """What varies over seeds [n_seeds, n_items]: the pairs' differences, or each system by itself."""
    return [values_a - values_b] if same_seeds else [values_a, values_b]
