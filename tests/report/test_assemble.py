"""What the report takes from each of a study's outputs."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.affinity.precision import precision
from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.evaluation.statistics import PairedDifference
from taskpgm_ray.export import MixtureDocument, MixtureTask
from taskpgm_ray.judge.comparisons import Comparison
from taskpgm_ray.judge.rows import BudgetScores, SeedScores, TaskScores
from taskpgm_ray.judge.stage import Judgement
from taskpgm_ray.report.assemble import StudyOutputs, assemble
from taskpgm_ray.runtime.progress import StageCost
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.search.comparator import RegressionFinding
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.screen import ScreenFinding

NAMES = ("gcd", "chess", "poetry")
HALF = np.array([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]])


def unit(**manifest):
    return SimpleNamespace(manifest=lambda: manifest)


def family(kind="jsd", S=HALF, gamma=2.0):
    return Family(kind, kind, S, gamma, None, contender=True)


def plan(name, kind="balance", tau=1.0, scores=()):
    """A trial with one run for each score."""
    runs = tuple(
        SimpleNamespace(
            seed=seed,
            unit=unit(
                weights=[1 / 3] * 3, trained_tokens=700, seconds=12.5,
                summary={
                    "accuracy": 0.25, "gold_logprob": score, "items": 40,
                    "benchmarks": {"mmlu": {"accuracy": 0.3, "gold_logprob": -1.4, "items": 40, "tasks": {}}},
                },
            ),
        )
        for seed, score in enumerate(scores)
    )  # fmt: skip
    candidate = Candidate(name, kind, tau, np.full(3, 1 / 3), name)
    return SimpleNamespace(
        name=name, candidate=candidate, runs=runs, summary=lambda run: run.unit.manifest()["summary"]
    )


@pytest.fixture
def outputs():
    """A study without a search, whose own affinity is not that of the mixture's family."""
    matrix = 1.0 - np.eye(3)
    found = Affinities(
        NAMES, matrix, matrix, matrix, matrix, np.eye(3), matrix, matrix, np.ones((4, 3)), "f", probes=12
    )
    config = SimpleNamespace(
        study="demo",
        to_yaml=lambda: "study: demo\n",
        search=SimpleNamespace(metric="gold_logprob"),
        scoring=ScoringConfig(probes="adaptive", probes_precision=0.2),
        evaluation=SimpleNamespace(weights={"bbh": 2.0}),
    )
    tasks = tuple(MixtureTask(name=name, weight=1 / 3, count=1, available=9, source="jsonl") for name in NAMES)
    facts = SimpleNamespace(source="jsonl", group="data", train=90, probes=8, cut=2, withheld=3)
    trained = unit(heldout_loss_before=2.0, heldout_loss_after=1.5, tokens=500, wall_seconds=3.0, gpu_seconds=2.0)
    return StudyOutputs(
        config=config,
        model=SimpleNamespace(source="hub", fingerprint="abc"),
        tasks=[SimpleNamespace(name=name, facts=facts) for name in NAMES],
        jobs=[SimpleNamespace(unit=trained, until=1.0) for _ in NAMES],
        affinities=found,
        family=family(),
        mixture=MixtureDocument(study="demo", fingerprint="f", tasks=tasks, tau=1.0).as_json(),
        baselines={"uniform": np.full(3, 1 / 3)},
        stages=[StageCost("finetune", seconds=9.0)],
        skipped={"bad": "its loss became nan"},
        verdict="Use it.",
    )


def test_a_study_without_a_search_has_its_pool_and_mixture(outputs):
    data = assemble(outputs)
    assert (data.study, data.verdict, data.skipped) == ("demo", "Use it.", {"bad": "its loss became nan"})
    task = data.tasks[0]
    assert (task.name, task.source, task.group, task.train, task.probes) == ("gcd", "jsonl", "data", 90, 8)
    assert (task.cut, task.withheld) == (2, 3)
    assert (task.loss_drop, task.tokens, task.seconds, task.gpu_seconds) == (0.5, 500, 3.0, 2.0)
    assert task.usable is None  # what an earlier version trained has none
    trained = outputs.jobs[0].unit.manifest()
    measured = {"information": 0.5, "error": 0.1, "surprise": 0.8}
    job = SimpleNamespace(unit=unit(**trained, usable=measured), until=1.0)
    assert asdict(assemble(replace(outputs, jobs=[job] * 3)).tasks[0].usable) == measured
    assert data.versions["base model"] == "hub (abc)"
    assert (data.precision, data.wanted_precision) == (precision(1 - np.eye(3), 1 - np.eye(3)), 0.2)
    assert (data.probes_scored, data.probes, data.spared) == (12, 24, 12)
    assert [data.trials, data.comparisons, data.by_task, data.by_seed, data.budgets] == [[]] * 5
    assert data.screen is None


def test_other_bandwidths_stand_beside_that_of_the_mixture(outputs):
    data = assemble(outputs)
    assert [row.rule for row in data.bandwidths] == 2 * ["median", "2 x median", "4 x median", "8 x median"]
    # The three tasks are parts of one data set.
    assert data.bandwidths[0].parts == {"data": pytest.approx((1.0,) * 4)}


def test_affinity_and_bandwidth_are_those_of_the_mixtures_family(outputs):
    data = assemble(outputs)
    np.testing.assert_array_equal(data.affinity, HALF)
    assert data.gamma == 2.0
    assert data.effective_tasks == pytest.approx(1.5)  # 1'S^-1 1 = n / (1 + (n - 1) / 2)
    np.testing.assert_allclose(data.path_weights.sum(axis=1), 1)


def test_a_text_family_has_no_bandwidth_and_no_magnitude(outputs):
    data = assemble(replace(outputs, family=family("text", HALF, None)))
    assert data.gamma is None
    assert data.effective_tasks is None
    pmi = assemble(replace(outputs, family=family("pmi", HALF, 7.0)))
    assert pmi.gamma == 7.0
    assert pmi.effective_tasks == pytest.approx(1.5)


def test_every_trial_has_its_scores_or_its_reason(outputs):
    plans = [plan("best", scores=(-1.0, -1.2)), plan("uniform", "baseline", None, (-1.5,))]
    plans += [plan("broken"), plan("slow"), plan("spared")]
    outcome = SimpleNamespace(
        plans=plans, finished=plans[:2], failed={"broken": "out of memory"}, stopped=["slow"],
        left_out={"capped": "it is the mixture of uniform"},
        screen=ScreenFinding(0.9, 0.7, 2, True, ("spared",)), merges=None,
        regression=RegressionFinding("boosted", 0.5, 0.1, 6, -1.3),
    )  # fmt: skip
    judgement = Judgement("best", [], [], [], [], [], [])
    data = assemble(replace(outputs, outcome=outcome, judgement=judgement))
    best, again, baseline, broken, slow, spared = data.trials
    assert [(t.name, t.seed, t.gold_logprob, t.winner) for t in (best, again, baseline)] == [
        ("best", 0, -1.0, True), ("best", 1, -1.2, True), ("uniform", 0, -1.5, False),
    ]  # fmt: skip
    assert (best.tau, best.value("mmlu_accuracy"), best.value("mmlu_gold_logprob")) == (1.0, 0.3, -1.4)
    assert (best.accuracy, best.items, best.tokens, best.seconds) == (0.25, 40, 700, 12.5)
    assert (broken.error, broken.seed, broken.gold_logprob) == ("out of memory", None, None)
    assert (slow.stopped, slow.skipped) == (True, False)
    assert (spared.stopped, spared.skipped) == (False, True)
    assert data.screen.mixtures == 2
    assert data.regression.predicted == -1.3
    assert data.score_weights == {"bbh": 2.0}
    assert data.left_out == {"capped": "it is the mixture of uniform"}


def test_the_judgement_is_passed_on(outputs):
    result = PairedDifference("gold_logprob", 0.1, 0.0, 0.2, 0.5, 0.03, 0.04, 0.14, 0.95, 640, 3)
    one = Comparison("best", "uniform", "all", result, 0.5, "better")
    means = {"gold_logprob": -1.0, "accuracy": 0.5}
    rows = [TaskScores("mmlu", "law", 9, {"best": means}, 1.0, 1.0)], [SeedScores("best", 0, **means)]
    budgets = [BudgetScores("best@25%", 3, 0.25, **means)]
    data = assemble(replace(outputs, judgement=Judgement("best", [one], [], [one], *rows, budgets)))
    assert data.comparisons == data.against_uniform == [one]
    assert (data.by_task, data.by_seed, data.budgets) == (*rows, budgets)
