"""A search on real Ray Tune with a stand-in for lanes and engines: killed, resumed, with failures, ASHA and Optuna."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]

# The lanes and engines are one actor that takes a moment for each fine-tune and counts them in a file; scores depend on
# the mixture, and one candidate fails when the test says so.
DRIVER = """
import json, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import ray
from rich.console import Console
from taskpgm_ray.config import load_config
from taskpgm_ray.errors import TrainingError
from taskpgm_ray.evaluation import ItemScore, Split
from taskpgm_ray.finetune.fleet_view import FleetStatus
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.search import merges
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.trials import Planner
from taskpgm_ray.search.stage import search, winner
from taskpgm_ray.storage import Storage, Unit

# A shell's background jobs ignore Ctrl-C, and so would this process where the tests are one.
signal.signal(signal.SIGINT, signal.default_int_handler)
root, options = Path(sys.argv[1]), json.loads(sys.argv[2])
config = load_config({
    "study": "s", "storage": str(root), "pool": {"tasks": ["jsonl:a", "jsonl:b"]},
    "finetune": {"steps": 90}, "search": {"tau": [0.0, 3.0], "concurrency": 2} | options["search"],
})

@ray.remote(num_cpus=0, max_concurrency=8)
class Stand:
    def train(self, job):
        with (root / "trained").open("a") as log:
            log.write(f"{job.name} {job.recipe.steps}\\n")
        time.sleep(options["seconds"])
        if options.get("fails") and job.name.startswith(options["fails"]):
            raise TrainingError(f"job {job.name!r}: the loss became nan")
        manifest = {"tokens": job.recipe.steps, "weights": list(job.weights)}
        job.unit.finish(manifest)
        return manifest

    def evaluate(self, adapter, split, seed, side):
        assert side == split.name == "search"
        best = -abs(max(adapter.manifest()["weights"]) - 0.5)
        return [ItemScore("mmlu", "t", f"i{i}", 1.0, best, seed) for i in range(3)]

class Handle:
    def __init__(self, stand):
        self.stand = stand
    def submit(self, job):
        return self.stand.train.remote(job)
    def note(self):
        return ""

    def status(self):
        return FleetStatus(0, {}, 0, 0)
    def evaluate(self, *what):
        return self.stand.evaluate.remote(*what)

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
storage = Storage(str(root))
stand = Stand.remote()
tasks = tuple(
    SimpleNamespace(name=n, facts=SimpleNamespace(available=size, train_content=n, probe_content=n, train=size))
    for n, size in zip("abc", (10, 20, 30))
)
run = SimpleNamespace(
    connect=lambda: None, fleet=Handle(stand), pool=Handle(stand), evaluator=Handle(stand),
    progress=Progress(storage, Console()),
)
model = BaseModelRef("m", None, "f", "float32")
split = Split("search", storage, "evaluation/search")
Unit(storage, split.path).finish({"split": "search"})
planner = Planner(tasks, split, config, model, storage)
S = np.array([[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]])
families = [Family("jsd", "jsd", S, 1.0, None, True)]
# A merge is its weights, and scores as training on them would; or the other way round, when the test says so.
def merge(sources, batch, lora):
    for one in batch:
        with (root / "merged").open("a") as log:
            log.write(one.unit.path + "\\n")
        weights = 1 - np.asarray(one.weights) if options.get("misleading") else one.weights
        one.unit.finish({"weights": list(weights)})
merges.merge_adapters = merge
outcome = search(families, [], planner, run)
print("OUTCOME " + json.dumps({
    "winner": winner(outcome, "gold_logprob").name, "failed": outcome.failed, "stopped": outcome.stopped,
    "finished": [plan.name for plan in outcome.finished],
    "screen": outcome.screen and vars(outcome.screen),
    "merges": outcome.merges and outcome.merges.as_json(),
}))
"""


class Driver:
    """The driver above in a process group of its own, so that killing it kills its Ray as well."""

    def __init__(self, root, seconds=0.1, fails=None, misleading=False, **search):
        self.root = root
        script = root / "driver.py"
        script.write_text(textwrap.dedent(DRIVER))
        options = json.dumps({"seconds": seconds, "fails": fails, "misleading": misleading, "search": search})
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(root), options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "RAY_USAGE_STATS_ENABLED": "0"},
        )

    def outcome(self):
        printed, _ = self.process.communicate(timeout=400)
        assert self.process.returncode == 0, printed[-4000:]
        line = next(line for line in printed.splitlines() if line.startswith("OUTCOME "))
        return json.loads(line.removeprefix("OUTCOME "))

    def trained(self):
        log = self.root / "trained"
        return log.read_text().split("\n")[:-1] if log.exists() else []

    def end_after(self, finished, how):
        """Signal driver and Ray once so many trials are finished and another one is in the making."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            done = {p.parent.name for p in self.root.glob("trials/*/manifest.json")}
            if len(done) >= finished and len(self.trained()) > len(done):
                os.killpg(self.process.pid, how)
                self.printed, _ = self.process.communicate(timeout=60)
                assert "OUTCOME" not in self.printed
                return done
            assert self.process.poll() is None, self.process.stdout.read()[-3000:]
            time.sleep(0.05)
        raise AssertionError("the search did not get that far")


@pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGKILL, id="kill -9"), pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.faults)],
)
def test_a_search_ended_in_mid_trial_repeats_no_finished_trial(tmp_path, how):
    first = Driver(tmp_path, seconds=3, balances=4, seeds=1, concurrency=1)
    done = first.end_after(2, how)
    assert first.process.returncode != 0
    assert how != signal.SIGINT or "KeyboardInterrupt" in first.printed
    before = {name: (tmp_path / "trials" / name / "manifest.json").stat().st_mtime_ns for name in done}
    trained = first.trained()
    second = Driver(tmp_path, balances=4, seeds=1, concurrency=1)
    outcome = second.outcome()
    assert {name: (tmp_path / "trials" / name / "manifest.json").stat().st_mtime_ns for name in done} == before
    again = second.trained()[len(trained) :]
    assert not {line.split()[0] for line in again} & {name.rpartition("-")[0] for name in done}
    assert len(outcome["finished"]) == len(set(trained + again))
    # Finished: nothing is trained, and Tune is not asked.
    third = Driver(tmp_path, balances=4, seeds=1, concurrency=1)
    assert third.outcome() == outcome
    assert len(third.trained()) == len(trained) + len(again)


def test_a_failed_trial_does_not_end_the_search(tmp_path):
    baselines = ["uniform", "proportional", "regression"]
    driver = Driver(tmp_path, fails="tau-0-", balances=5, merge_distance=0.0, baselines=baselines)
    outcome = driver.outcome()
    assert list(outcome["failed"]) == ["tau-0"]
    assert "TrainingError" in outcome["failed"]["tau-0"]
    assert "the loss became nan" in outcome["failed"]["tau-0"]
    assert {"uniform", "proportional"} < set(outcome["finished"])
    assert outcome["winner"] != "tau-0"
    # Of the scores of those that did not fail.
    assert "regression" in outcome["finished"]
    assert driver.trained()[-1].startswith("regression-seed0 ")


def test_asha_stops_losers_and_the_rest_gets_the_full_budget(tmp_path):
    driver = Driver(tmp_path, balances=6, rungs=3, reduction=3, concurrency=1, merge_distance=0.0)
    outcome = driver.outcome()
    budgets = [int(line.split()[1]) for line in driver.trained() if line.startswith("tau-")]
    assert set(budgets) == {10, 30, 90}
    assert outcome["stopped"]
    assert budgets.count(10) == len(outcome["stopped"]) + sum(n.startswith("tau-") for n in outcome["finished"])
    assert budgets.count(90) < budgets.count(10)
    assert all(line.split()[1] == "90" for line in driver.trained() if not line.startswith("tau-"))


def test_merges_spare_the_training_of_hopeless_mixtures(tmp_path):
    driver = Driver(tmp_path, balances=8, screen="skip", merge_distance=0.0)
    outcome = driver.outcome()
    found = outcome["screen"]
    assert found["warranted"]
    assert found["mixtures"] == 6  # two baselines and half of the balances
    assert found["skipped"]
    assert not {line.split("-seed")[0] for line in driver.trained()} & set(found["skipped"])
    # Nothing better was skipped: with every trial trained, the same one wins.
    everything = tmp_path / "everything"
    everything.mkdir()
    assert Driver(everything, balances=8, merge_distance=0.0).outcome()["winner"] == outcome["winner"]


def test_merges_that_mislead_spare_nothing(tmp_path):
    outcome = Driver(tmp_path, misleading=True, balances=8, screen="skip", merge_distance=0.0).outcome()
    assert not outcome["screen"]["warranted"]
    assert outcome["screen"]["skipped"] == []
    assert len(outcome["finished"]) == 10


def test_merges_propose_what_is_trained_and_are_made_once(tmp_path):
    options = {
        "balances": 5, "algorithm": "merge", "merges": 20, "merge_distance": 0.0,
        "baselines": ["uniform", "proportional", "temperature", "random"],
    }  # fmt: skip
    driver = Driver(tmp_path, **options)
    outcome = driver.outcome()
    found = outcome["merges"]
    assert found["used"]
    assert found["pilots"]["mixtures"] == 4 + 2
    assert 1 <= len(found["proposed"]) <= 3
    assert len(driver.trained()) == 6 + len(found["proposed"])
    merged = (tmp_path / "merged").read_text().splitlines()
    assert len(merged) == len(set(merged)) == found["scored"] == len(list(tmp_path.glob("screens/*")))
    assert not list(tmp_path.glob("merges/*"))
    again = Driver(tmp_path, **options)
    assert again.outcome() == outcome
    assert (tmp_path / "merged").read_text().splitlines() == merged


def test_trackers_see_every_trial_under_its_name(tmp_path, monkeypatch):
    """W&B writes its offline files and MLflow its local store; both are optional packages."""
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    store = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    outcome = Driver(tmp_path, balances=2, loggers=["wandb", "mlflow"]).outcome()
    mlflow.set_tracking_uri(store)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {run.info.run_name for run in runs} == set(outcome["finished"])
    assert all("gold_logprob" in run.data.metrics for run in runs)
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == len(outcome["finished"])


def test_optuna_proposes_as_many_candidates_and_goes_on_from_finished_ones(tmp_path):
    options = {"balances": 5, "algorithm": "optuna", "baselines": ["uniform"], "concurrency": 1}
    first = Driver(tmp_path, seconds=2, **options)
    done = first.end_after(3, signal.SIGKILL)
    second = Driver(tmp_path, **options)
    outcome = second.outcome()
    assert outcome["winner"].startswith("tau-")
    names = [line.split()[0] for line in second.trained()]
    assert all(names.count(name.rpartition("-")[0]) == 1 for name in done)
    assert len(list(tmp_path.glob("search/points-*/*.json"))) in (5, 6)
