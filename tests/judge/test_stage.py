"""The judging stage around the looks: who gets more seeds, and what the judgement then holds."""

from types import SimpleNamespace

import numpy as np

from taskpgm_ray.config import load_config
from taskpgm_ray.evaluation import ItemScore
from taskpgm_ray.judge import stage as module
from taskpgm_ray.judge.finalists import BASE
from taskpgm_ray.judge.stage import judge
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.families import Family
from taskpgm_ray.workload import report_seeds


def candidate(name, kind="baseline", method=None):
    return Candidate(name, kind, 1.0 if kind == "balance" else None, np.full(3, 1 / 3), method or name)


def test_the_winner_and_uniform_get_more_seeds_and_nobody_else(monkeypatch):
    config = load_config(
        {
            "study": "s",
            "pool": {"tasks": ["jsonl:a"]},
            "finetune": {"steps": 1},
            "search": {"budget_fractions": [0.5], "baselines": ["uniform", "proportional"]},
            "evaluation": {"report_seeds": "auto", "smallest_effect": 0.05, "most_report_seeds": 5},
        }
    )
    planner, rng, asked, kept = SimpleNamespace(config=config), np.random.default_rng(0), [], {}

    def score(name, seed):
        return [ItemScore("mmlu", f"t{i % 2}", str(i), 0.5, float(rng.normal() + i), seed) for i in range(6)]

    def scores_on_report(finalists, planner, report, run):
        asked.append({one.name: one.seeds for one in finalists})
        rows = {BASE: score(BASE, 0)}
        for one in finalists:
            seeds = report_seeds(config, one.seeds)
            rows[one.name] = [row for s in seeds for row in kept.setdefault((one.name, s), score(one.name, s))]
        return rows

    monkeypatch.setattr(module, "scores_on_report", scores_on_report)
    chosen = candidate("jsd|tau-1", "balance", "jsd")
    methods = {"jsd": chosen, "uniform": candidate("uniform"), "proportional": candidate("proportional")}
    family = Family("jsd", "jsd", np.eye(3), 1.0, None, contender=True)
    found = judge(chosen, family, methods, planner, None, None)
    assert [{name for name, seeds in look.items() if seeds} for look in asked] == [{"jsd|tau-1", "uniform"}] * 2
    assert [look["uniform"] for look in asked] == [3, 5]
    assert {"proportional", "jsd|tau-1@50%", "uniform@50%"} < asked[0].keys()
    assert found.judged_by == list(report_seeds(config, 5))
    seeds = {(c.baseline, c.result.seeds) for c in found.comparisons}
    assert seeds == {("uniform", 5), ("proportional", 3)}
    assert {(c.system, c.result.seeds) for c in found.against_uniform} == {("jsd|tau-1", 5), ("proportional", 3)}
    assert len([row for row in found.seeds if row.system == "proportional"]) == 3


def test_other_methods_may_have_fewer_seeds_and_are_compared_on_those_that_both_have(monkeypatch):
    config = load_config(
        {
            "study": "s",
            "pool": {"tasks": ["jsonl:a"]},
            "finetune": {"steps": 1},
            "search": {"baselines": ["uniform", "proportional"]},
            "evaluation": {"report_seeds": 6, "other_seeds": 4},
        }
    )
    planner, asked = SimpleNamespace(config=config), []

    def scores_on_report(finalists, planner, report, run):
        asked.append({one.name: one.seeds for one in finalists})
        rng = np.random.default_rng(0)
        return {BASE: [ItemScore("mmlu", f"t{i % 2}", str(i), 0.5, -1.0, 0) for i in range(6)]} | {
            one.name: [
                ItemScore("mmlu", f"t{i % 2}", str(i), 0.5, float(rng.normal() + i), seed)
                for seed in report_seeds(config, one.seeds)
                for i in range(6)
            ]
            for one in finalists
        }

    monkeypatch.setattr(module, "scores_on_report", scores_on_report)
    chosen = candidate("jsd|tau-1", "balance", "jsd")
    methods = {"jsd": chosen, "uniform": candidate("uniform"), "proportional": candidate("proportional")}
    family = Family("jsd", "jsd", np.eye(3), 1.0, None, contender=True)
    found = judge(chosen, family, methods, planner, None, None)
    assert {name: asked[0][name] for name in ("jsd|tau-1", "uniform", "proportional")} == {
        "jsd|tau-1": 6,
        "uniform": 6,
        "proportional": 4,
    }
    assert {(c.baseline, c.result.seeds) for c in found.comparisons} == {("uniform", 6), ("proportional", 4)}
    assert {(c.system, c.result.seeds) for c in found.against_uniform} == {("jsd|tau-1", 6), ("proportional", 4)}
