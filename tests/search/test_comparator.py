"""The baseline ``regression``: trained after all others, on what they scored, and never twice. No Ray, no model."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import TrainingError
from taskpgm_ray.evaluation import ItemScore, Split
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.mrf import Limits
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.search import comparator, screen, stage
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.trials import Planner, finish_run
from taskpgm_ray.storage import Storage, Unit

NAMES, SLOPE = "abcd", np.array([0.9, 0.3, -0.3, -0.9])
BASELINES = ["uniform", "proportional", "regression"]


class Tuner:
    """Ray Tune's stand-in: trains in a moment, and scores by a mixing law that no path of mixtures follows."""

    def __init__(self):
        self.trained, self.fails = [], set()

    def grid(self, plans):
        for plan in plans:
            self.train(plan)
        return {plan.name: TrainingError("the loss became nan") for plan in plans if plan.name in self.fails}

    def optuna(self, space, families, samples, seed):
        for k in range(samples):
            self.train(space.propose({"family": families[0].name, "position": k / (samples - 1)}))
        return {}

    def train(self, plan):
        self.trained.append(plan.name)
        for run in plan.runs if plan.name not in self.fails else ():
            value = -2 * np.exp(-0.3 * plan.candidate.at_seed(run.seed) @ SLOPE) + 0.001 * run.seed
            finish_run(plan, run, [ItemScore("mmlu", "t", "i", 1.0, float(value), run.seed)], {"tokens": 7}, 1.0)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """One search after the other in one folder, with the mixtures that each of them trained."""
    tuner = Tuner()
    monkeypatch.setattr(stage, "_tune", lambda planner, run, stage: tuner)
    storage = Storage(str(tmp_path))
    tasks = tuple(
        SimpleNamespace(name=n, facts=SimpleNamespace(available=10 * (k + 1), train_content=n, probe_content=n))
        for k, n in enumerate(NAMES)
    )
    Unit(storage, "evaluation/search").finish({"split": "search"})
    S = np.array([[1, 0.8, 0.1, 0.2], [0.8, 1, 0.2, 0.1], [0.1, 0.2, 1, 0.3], [0.2, 0.1, 0.3, 1]])

    def search(limits=None, **options):
        config = load_config(
            {
                "study": "s",
                "pool": {"tasks": ["jsonl:a", "jsonl:b"]},
                "finetune": {"steps": 90},
                "search": {"balances": 6, "tau": [0, 4], "baselines": BASELINES} | options,
            }
        )
        model, split = BaseModelRef("m", None, "f", "float32"), Split("search", storage, "evaluation/search")
        planner = Planner(tasks, split, config, model, storage)
        run = SimpleNamespace(progress=Progress(storage, Console(file=io.StringIO())))
        before = len(tuner.trained)
        outcome = stage.search([Family("jsd", "jsd", S, 1.0, None, True, limits=limits)], [], planner, run)
        return outcome, tuner.trained[before:]

    search.tuner = tuner
    return search


@pytest.mark.parametrize("algorithm", ["grid", "optuna"])
def test_it_is_trained_last_and_never_twice(study, algorithm):
    outcome, trained = study(algorithm=algorithm, seeds=2)
    assert trained[-1] == "regression"
    assert trained.count("regression") == 1
    best = outcome.best("gold_logprob")
    scores = {method: plan.score("gold_logprob") for method, plan in best.items()}
    proposal = best["regression"].candidate
    assert (proposal.kind, proposal.tau, proposal.method) == ("baseline", None, "regression")
    assert len(best["regression"].runs) == 2
    # The law's optimum is the first task alone, which no balance is near.
    assert proposal.weights[0] > 0.8
    assert scores["regression"] > max(scores["jsd"], scores["uniform"])
    assert (outcome.regression.model, outcome.regression.mixtures) == ("log-linear", len(outcome.finished) - 1)
    assert outcome.regression.low > 0.5
    assert outcome.regression.predicted == pytest.approx(scores["regression"], abs=0.01)
    again, trained = study(algorithm=algorithm, seeds=2)
    assert trained == []
    np.testing.assert_array_equal(again.best("gold_logprob")["regression"].candidate.weights, proposal.weights)
    assert again.regression == outcome.regression


def test_an_interrupted_search_proposes_what_the_whole_one_does(study, monkeypatch):
    outcome, _ = study()
    monkeypatch.setattr(comparator, "regress", None)  # what was proposed is read, not computed again
    again, trained = study()
    assert (trained, again.regression) == ([], outcome.regression)


@pytest.mark.parametrize("algorithm", ["grid", "optuna"])
def test_it_keeps_the_limits_of_the_families(study, algorithm):
    outcome, _ = study(limits=Limits(np.full(4, 0.05), np.array([0.4, 1, 1, 1])), algorithm=algorithm)
    weights = outcome.best("gold_logprob")["regression"].candidate.weights
    assert weights.min() >= 0.05 - 1e-9
    assert 0.3 < weights[0] <= 0.4 + 1e-9


def test_too_few_mixtures_are_a_reason(study):
    outcome, trained = study(balances=2)
    assert "regression" not in trained
    assert outcome.left_out == {
        "regression": "a regression takes at least 5 different mixtures with scores, and there are 4"
    }
    assert outcome.regression is None


def test_a_mixture_that_was_tried_is_not_tried_again(study, monkeypatch):
    monkeypatch.setattr(comparator, "propose", lambda *_: np.array([0.25, 0.25, 0.26, 0.24]))
    outcome, trained = study()
    assert "regression" not in trained
    assert outcome.left_out == {"regression": "it is the mixture of uniform (nearer than 0.02)"}
    assert outcome.regression.mixtures == len(outcome.finished)


def test_its_failure_is_that_of_a_trial(study):
    study.tuner.fails = {"regression"}
    outcome, trained = study()
    assert outcome.failed == {"regression": "TrainingError: the loss became nan"}
    assert trained[-1] == "regression"
    assert stage.winner(outcome, "gold_logprob").kind == "balance"
    assert study()[1] == []


def test_trials_that_were_not_trained_do_not_enter(study, monkeypatch):
    monkeypatch.setattr(stage, "screened", lambda merges, trained: screen.ScreenFinding(0.9, 0.8, 4, True))
    monkeypatch.setattr(stage, "hopeless", lambda merges, trained, others: (others[0].name,))
    outcome, trained = study(screen="skip")
    (skipped,) = outcome.screen.skipped
    assert skipped not in trained
    assert outcome.regression.mixtures == len(outcome.plans) - 2
    assert trained[-1] == "regression"


def test_a_random_baseline_is_another_mixture_for_every_seed(study):
    outcome, _ = study(balances=2, seeds=3, baselines=["uniform", "random", "regression"])
    assert outcome.regression.mixtures == 2 + 1 + 3
