"""What a second search takes over from the first: no Ray, no model; the trials are made up."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import ResourceError, TrainingError
from taskpgm_ray.evaluation import ItemScore, Split
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.search import stage
from taskpgm_ray.search.candidates import Pool
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.trials import Planner, finish_run
from taskpgm_ray.storage import Storage

S = np.array([[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]])


class Trials:
    """In Tune's place: finishes every trial but those that are to be stopped or to fail."""

    def __init__(self, stopped=(), failing=()):
        self.stopped, self.failing, self.ran = set(stopped), dict(failing), []

    def grid(self, plans):
        for number, plan in enumerate(plans):
            self.ran.append(plan.name)
            if plan.name not in self.stopped | set(self.failing):
                finish(plan, -number)
        return {name: error for name, error in self.failing.items() if name in self.ran}

    def optuna(self, space, families, samples, seed):
        done = len([point for point in space.points() if space.plan(point).done()])
        for number in range(done, samples):
            plan = space.propose({"family": families[0].name, "position": (number + 0.5) / 10})
            self.ran.append(plan.name)
            finish(plan, -number)
        return {}


def finish(plan, score):
    for run in plan.runs:
        rows = [ItemScore("mmlu", "t", f"item{k}", 1.0, score - k, 0) for k in range(3)]
        finish_run(plan, run, rows, {"tokens": 7}, 1.0)


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Search in one study's folder, with these trials and options."""
    monkeypatch.setattr(Planner, "pool", lambda self, jobs: Pool([100] * 3, list("abc"), [1.0] * 3))

    def search(trials, folder=tmp_path, evaluation=None, utility=None, **options):
        monkeypatch.setattr(stage, "_tune", lambda *_: trials)
        config = load_config({
            "study": "s", "pool": {"tasks": ["jsonl:a", "jsonl:b", "jsonl:c"]}, "finetune": {"steps": 90},
            "search": {"tau": [0.0, 3.0], "baselines": ["uniform"], "balances": 4} | options,
            "evaluation": evaluation or {},
        })  # fmt: skip
        storage = Storage(str(folder))
        tasks = tuple(
            SimpleNamespace(name=n, facts=SimpleNamespace(train_content=n, probe_content=n, available=100))
            for n in "abc"
        )
        planner = Planner(
            tasks,
            Split("search", storage, "evaluation/search"),
            config,
            BaseModelRef("m", None, "f", "float32"),
            storage,
        )
        families = [Family("jsd", "jsd", S, 1.0, utility, contender=True, end=config.search.tau[1])]
        run = SimpleNamespace(progress=Progress(storage, Console(quiet=True)), config=config, connect=lambda: None)
        return stage.search(families, [], planner, run)

    return search


@pytest.mark.parametrize(
    "change",
    [
        {"rungs": 1},
        {"rungs": 3},
        {"rungs": 2, "reduction": 2},
        {"rungs": 2, "metric": "accuracy"},
        {"rungs": 2, "evaluation": {"weights": {"mmlu": 2.0}}},
    ],
    ids=str,
)
def test_a_trial_that_one_race_stopped_runs_in_another(searched, change):
    first = searched(Trials(stopped=["tau-2", "tau-3"]), rungs=2)
    assert first.stopped == ["tau-2", "tau-3"]
    same, other = Trials(), Trials()
    assert searched(same, rungs=2).stopped == ["tau-2", "tau-3"]
    assert same.ran == []
    assert searched(other, **change).stopped == []
    assert other.ran == ["tau-2", "tau-3"]


def test_a_mixtures_own_failure_is_remembered_and_another_fault_is_not(searched):
    for _ in range(2):
        outcome = searched(Trials(failing={"tau-2": TrainingError("the loss became nan")}))
        assert outcome.failed == {"tau-2": "TrainingError: the loss became nan"}
    with pytest.raises(ResourceError, match="no lane could start"):
        searched(Trials(failing={"tau-1.5": ResourceError("no lane could start")}), tau=[0.0, 1.5])
    mended = Trials()
    assert searched(mended, tau=[0.0, 1.5]).failed == {}
    assert mended.ran == ["tau-1.5"]


@pytest.mark.parametrize(
    ("change", "ran"),
    [
        ({"balances": 6}, 2),
        ({"tau": [0.0, 10.0]}, 4),
        ({"utility": np.array([1.0, 2.0, 3.0])}, 4),
        ({"metric": "accuracy"}, 4),
        ({"evaluation": {"weights": {"mmlu": 2.0}}}, 4),
    ],
    ids=str,
)
def test_optuna_goes_on_with_one_search_and_begins_another(searched, change, ran):
    asked = {"algorithm": "optuna", "balances": 4}
    assert len(searched(Trials(), **asked).finished) == 5
    again = Trials()
    outcome = searched(again, **asked | change)
    # What was proposed may have been trained before; it is asked for all the same.
    assert len([name for name in again.ran if name != "uniform"]) == ran
    assert len(outcome.finished) == 1 + 4 + (2 if "balances" in change else 0)


def test_a_search_is_found_again_in_a_folder_that_was_moved(searched, tmp_path):
    asked = {"algorithm": "optuna", "balances": 4}
    first = searched(Trials(), tmp_path / "here", **asked)
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = Trials()
    moved = searched(again, tmp_path / "there", **asked)
    assert again.ran == []
    assert [plan.name for plan in moved.finished] == [plan.name for plan in first.finished]
