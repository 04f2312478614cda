import numpy as np
import pytest

from taskpgm_ray.export import mixture_document
from taskpgm_ray.report import ReportData


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
    pure = np.maximum(np.linalg.solve(affinity, np.ones(n)), 0)
    pure /= pure.sum()
    tau = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 30.0])
    corner = np.eye(n)[int(affinity.sum(0).argmax())]
    path = np.array([(1 - t) * pure + t / n if t <= 1 else corner * (1 - 1 / t) + 1 / (n * t) for t in tau])
    chosen, size = 0.5, rng.integers(200, 3000, size=n)
    weights = path[1] / path[1].sum()
    counts = np.floor(weights * 10_000).astype(int)
    counts[int(weights.argmax())] += 10_000 - counts.sum()
    mixture = mixture_document(
        study="demo", fingerprint="0123456789abcdef", names=names, weights=weights, counts=counts, available=size,
        sources=[f"jsonl:data/{i}.jsonl" for i in range(n)], tau=chosen, energy=-0.1234, gap=1e-15, gamma=gamma,
    )  # fmt: skip
    baselines = {"uniform": np.full(n, 1 / n), "proportional": size / size.sum()}
    trials = []
    for t in (0.0, 0.5, 1.0, 2.0, 4.0):
        for s in (0, 1):
            trials.append(
                trial(
                    f"tau-{t:g}",
                    "balance",
                    t,
                    s,
                    -1.2 - 0.05 * (t - 0.6) ** 2 + 0.02 * rng.normal(),
                    t == 0.5,
                    path[int(np.argmin(np.abs(tau - t)))].tolist(),
                )
            )
    for name in baselines:
        for s in (0, 1):
            trials.append(
                trial(name, "baseline", None, s, -1.27 + 0.02 * rng.normal(), False, baselines[name].tolist())
            )
    trials.append(
        {"name": "tau-6", "kind": "balance", "tau": 6.0, "seed": 0, "weights": path[-1].tolist(), "accuracy": None,
         "gold_logprob": None, "error": "the loss became NaN at step 12"}
    )  # fmt: skip
    comparisons = [
        {"baseline": b, "metric": m, "difference": d, "low": d - w, "high": d + w, "verdict": v,
         "minimum_detectable": 1.4 * w, "items": 840, "system": "tau-0.5", "scope": "all", "p_value": 0.02,
         "item_error": 0.3 * w, "seed_error": 0.4 * w, "seeds": 2}
        for b, m, d, w, v in (
            ("uniform", "gold_logprob", 0.061, 0.03, "better"), ("uniform", "accuracy", 0.012, 0.02, "undecided"),
            ("proportional", "gold_logprob", 0.09, 0.04, "better"), ("proportional", "accuracy", -0.031, 0.02, "worse"),
        )
    ]  # fmt: skip
    coverage = 1 - 0.03 * rng.random((n + 1, n))
    fields = {
        "study": "demo",
        "verdict": "Use this mixture: it beats uniform by 0.061 nats (0.031 to 0.091); accuracy is undecided.",
        "config_yaml": "study: demo\nmixture:\n  tau: 0.5\n",
        "tasks": [
            {"name": name, "source": f"jsonl:data/{i}.jsonl", "train": int(size[i]), "probes": 16, "cut": i % 3,
             "heldout_loss_before": 2.0 + rng.random(), "heldout_loss_after": 1.0 + 0.5 * rng.random(),
             "tokens": 120_000, "seconds": 31.5}
            for i, name in enumerate(names)
        ],
        "divergence": divergence, "divergence_se": np.full((n, n), 0.01), "affinity": affinity,
        "pmi": rng.normal(size=(n, n)) * 0.2 + np.eye(n), "gamma": gamma,
        "effective_tasks": float(np.linalg.solve(affinity, np.ones(n)).sum()),
        "coverage": coverage, "mixture": mixture, "path_tau": tau, "path_weights": path, "baselines": baselines,
        "trials": trials, "comparisons": comparisons,
        "stages": [
            {"stage": "finetune", "seconds": 312.0, "tokens": 1_400_000, "done": n, "reused": 0},
            {"stage": "scoring", "seconds": 140.0, "tokens": 380_000, "done": n - 2, "reused": 3},
            {"stage": "affinity", "seconds": 3.2, "tokens": None, "done": 1, "reused": 0},
            {"stage": "search", "seconds": 610.0, "tokens": 2_100_000, "done": 14, "reused": 0},
        ],
        "versions": {"taskpgm-ray": "0.1.0", "ray": "2.60.0"},
    }  # fmt: skip
    return ReportData(**(fields | changes))


def trial(name, kind, tau, seed, value, winner, weights):
    return {
        "name": name, "kind": kind, "tau": tau, "seed": seed, "weights": weights, "accuracy": 0.4 + value / 20,
        "gold_logprob": value, "mmlu_accuracy": 0.35 + value / 20, "bbh_accuracy": 0.45 + value / 20,
        "mmlu_gold_logprob": value - 0.1, "bbh_gold_logprob": value + 0.1, "items": 280, "tokens": 60_000,
        "seconds": 44.0, "winner": winner,
    }  # fmt: skip


@pytest.fixture
def report_data():
    return make
