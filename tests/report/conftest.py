from dataclasses import replace

import numpy as np
import pytest

from taskpgm_ray.evaluation.statistics import PairedDifference
from taskpgm_ray.export import MixtureDocument, MixtureTask
from taskpgm_ray.judge.comparisons import Comparison
from taskpgm_ray.judge.rows import TaskScores
from taskpgm_ray.judge.samples import Sample
from taskpgm_ray.report import ReportData
from taskpgm_ray.report.data import TaskRow, TrialRow
from taskpgm_ray.runtime.progress import StageCost

TAU = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 30.0])


def make(n=6, seed=0, names=None, **changes):
    """A plausible study of n tasks in families of about three; every optional piece is there."""
    rng = np.random.default_rng(seed)
    names = names or [f"task_{i:03d}_of_family_{i % max(1, n // 3)}" for i in range(n)]
    family = np.array([i % max(1, n // 3) for i in range(n)])
    points = rng.normal(size=(max(1, n // 3), 5))[family] + 0.35 * rng.normal(size=(n, 5))
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    divergence = 0.69 * (1 - np.exp(-squared / 12))
    gamma = float(np.log(2) / np.median(divergence[~np.eye(n, dtype=bool)])) if n > 1 else 1.0
    affinity = np.exp(-gamma * divergence)
    path = path_of(affinity)
    size = rng.integers(200, 3000, size=n)
    baselines = {"uniform": np.full(n, 1 / n), "proportional": size / size.sum()}
    trials = trials_of(path, baselines, rng)
    coverage = 1 - 0.03 * rng.random((n + 1, n))
    fields = {
        "study": "demo",
        "verdict": "Use this mixture: it beats uniform by 0.061 nats (0.031 to 0.091); accuracy is undecided.",
        "config_yaml": "study: demo\nmixture:\n  tau: 0.5\n",
        "tasks": [
            TaskRow(
                name=name, source=f"jsonl:data/{i}.jsonl", train=int(size[i]), probes=16, cut=i % 3, withheld=i % 2,
                heldout_loss_before=2.0 + rng.random(), heldout_loss_after=1.0 + 0.5 * rng.random(), tokens=120_000,
                seconds=31.5,
            )
            for i, name in enumerate(names)
        ],
        "divergence": divergence, "divergence_se": np.full((n, n), 0.01), "affinity": affinity,
        "pmi": rng.normal(size=(n, n)) * 0.2 + np.eye(n), "gamma": gamma,
        "effective_tasks": float(np.linalg.solve(affinity, np.ones(n)).sum()),
        "coverage": coverage, "mixture": document(names, path[1] / path[1].sum(), size, gamma), "path_tau": TAU,
        "path_weights": path, "baselines": baselines, "trials": trials, "comparisons": comparisons(),
        "stages": [
            StageCost("finetune", 312.0, 1_400_000, n, 0), StageCost("scoring", 140.0, 380_000, n - 2, 3),
            StageCost("affinity", 3.2, None, 1, 0), StageCost("search", 610.0, 2_100_000, 14, 0),
        ],
        "versions": {"taskpgm-ray": "0.1.0", "ray": "2.60.0"},
    }  # fmt: skip
    return ReportData(**(fields | changes))


def path_of(affinity):
    """Something like a path of mixtures [m, n]: diverse at first, uniform at 1, one task in the end."""
    n = len(affinity)
    pure = np.maximum(np.linalg.solve(affinity, np.ones(n)), 0)
    pure /= pure.sum()
    corner = np.eye(n)[int(affinity.sum(0).argmax())]
    return np.array([(1 - t) * pure + t / n if t <= 1 else corner * (1 - 1 / t) + 1 / (n * t) for t in TAU])


def document(names, weights, size, gamma):
    counts = np.floor(weights * 10_000).astype(int)
    counts[int(weights.argmax())] += 10_000 - counts.sum()
    tasks = tuple(
        MixtureTask(name=name, weight=weight, count=count, available=available, source=f"jsonl:data/{i}.jsonl")
        for i, (name, weight, count, available) in enumerate(zip(names, weights, counts, size, strict=True))
    )
    return MixtureDocument(
        study="demo", fingerprint="0123456789abcdef", tasks=tasks, tau=0.5, energy=-0.1234, gap=1e-15, gamma=gamma
    ).as_json()


def trials_of(path, baselines, rng):
    """Five balances and the baselines, twice each, and one balance that failed."""
    trials = []
    for tau in (0.0, 0.5, 1.0, 2.0, 4.0):
        weights = path[int(np.argmin(np.abs(TAU - tau)))].tolist()
        for seed in (0, 1):
            value = -1.2 - 0.05 * (tau - 0.6) ** 2 + 0.02 * rng.normal()
            trials.append(
                trial(f"tau-{tau:g}", value, kind="balance", tau=tau, seed=seed, weights=weights, winner=tau == 0.5)
            )
    for name, weights in baselines.items():
        for seed in (0, 1):
            value = -1.27 + 0.02 * rng.normal()
            trials.append(trial(name, value, kind="baseline", seed=seed, weights=weights.tolist()))
    error = "the loss became NaN at step 12"
    failed = TrialRow(name="tau-6", kind="balance", tau=6.0, seed=0, weights=path[-1].tolist(), error=error)
    return [*trials, failed]


def trial(name, value, **fields):
    return TrialRow(
        name=name, accuracy=0.4 + value / 20, gold_logprob=value,
        benchmarks={
            "mmlu": {"accuracy": 0.35 + value / 20, "gold_logprob": value - 0.1},
            "bbh": {"accuracy": 0.45 + value / 20, "gold_logprob": value + 0.1},
        },
        items=280, tokens=60_000, seconds=44.0, **fields,
    )  # fmt: skip


def comparisons():
    found = []
    for baseline, metric, difference, width, verdict in (
        ("uniform", "gold_logprob", 0.061, 0.03, "better"), ("uniform", "accuracy", 0.012, 0.02, "undecided"),
        ("proportional", "gold_logprob", 0.09, 0.04, "better"), ("proportional", "accuracy", -0.031, 0.02, "worse"),
    ):  # fmt: skip
        result = PairedDifference(
            metric, difference, difference - width, difference + width, p_value=0.01, item_error=0.3 * width,
            seed_error=0.4 * width, minimum_detectable=1.4 * width, confidence=0.95, items=840, seeds=2,
        )  # fmt: skip
        found.append(Comparison("tau-0.5", baseline, "all", result, 0.02, verdict))
    return found


def judged(data):
    """The same study with what its report split says by system: a benchmark, and the pool's own data sets."""
    systems = ("tau-0.5", "uniform", "proportional", "base model")
    tasks = [("bbh", "snarks", 0.25, 0.5), ("bbh", "navigate", 0.25, 0.5)]
    tasks += [("pool", name, 0.5 / len(data.tasks), 1 / len(data.tasks)) for name in data.names]
    rows = [
        TaskScores(benchmark, task, 10, {
            system: {"gold_logprob": -1.0 - 0.1 * i - 0.01 * k, "accuracy": 0.5 - 0.1 * i}
            for i, system in enumerate(systems)
        }, share, within)
        for k, (benchmark, task, share, within) in enumerate(tasks)
    ]  # fmt: skip
    base = [replace(one, baseline="base model") for one in data.comparisons[:2]]
    samples = [
        Sample("bbh", "navigate", f"{'long ' * 100}Do you return?", "Yes", {"base model": "No", "tau-0.5": " Yes\nQ"}),
        Sample("mmlu", "anatomy", "Which bone?\nAnswer:", "B. the ulna", {"base model": "", "tau-0.5": " B"}),
    ]
    return replace(data, by_task=rows, over_base=base, samples=samples)


@pytest.fixture
def report_data():
    return make


@pytest.fixture
def judged_data():
    return lambda n: judged(make(n))


@pytest.fixture
def trial_row():
    return trial
