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

@ray.remote(num_cpus=0, max_concurrency=8)
class Stand:
    def __init__(self, root, options):
        self.root, self.options = root, options
    def train(self, job):
        with (self.root / "trained").open("a") as log:
            log.write(f"{job.name} {job.recipe.steps}\\n")
        time.sleep(self.options["seconds"])
        if self.options.get("fails") and job.name.startswith(self.options["fails"]):
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

def searched(root, options):
    config = load_config({
        "study": "s", "storage": str(root), "pool": {"tasks": ["jsonl:a", "jsonl:b"]},
        "finetune": {"steps": 90}, "search": {"tau": [0.0, 3.0], "concurrency": 2} | options["search"],
    })
    storage = Storage(str(root))
    stand = Stand.remote(root, options)
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
    }), flush=True)

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
for root, options in json.loads(sys.argv[1]):
    searched(Path(root), options)
"""


def options(seconds=0.1, fails=None, misleading=False, **search):
    """What the driver is told of one search."""
    return {"seconds": seconds, "fails": fails, "misleading": misleading, "search": search}


class Driver:
    """The driver above in a process group of its own, so that killing it kills its Ray as well.

    Its searches, each in a folder, follow each other.
    """

    def __init__(self, root, *searches):
        self.root = root
        script = root / "driver.py"
        script.write_text(textwrap.dedent(DRIVER))
        self.process = subprocess.Popen(
            [sys.executable, str(script), json.dumps([(str(folder), told) for folder, told in searches])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "RAY_USAGE_STATS_ENABLED": "0"},
        )

    def outcomes(self):
        printed, _ = self.process.communicate(timeout=550)
        assert self.process.returncode == 0, printed[-4000:]
        return [
            json.loads(line.removeprefix("OUTCOME ")) for line in printed.splitlines() if line.startswith("OUTCOME ")
        ]

    def end_after(self, finished, how):
        """Signal driver and Ray once so many trials are finished and another one is in the making."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            done = {p.parent.name for p in self.root.glob("trials/*/manifest.json")}
            if len(done) >= finished and len(trained(self.root)) > len(done):
                os.killpg(self.process.pid, how)
                self.printed, _ = self.process.communicate(timeout=60)
                assert "OUTCOME" not in self.printed
                return done
            assert self.process.poll() is None, self.process.stdout.read()[-3000:]
            time.sleep(0.05)
        raise AssertionError("the search did not get that far")


def trained(root):
    """The fine-tunes of a search, each with its steps, in their order."""
    log = root / "trained"
    return log.read_text().split("\n")[:-1] if log.exists() else []


MERGES = {
    "balances": 5, "concurrency": 1, "algorithm": "merge", "merges": 20, "merge_distance": 0.0,
    "baselines": ["uniform", "proportional", "temperature", "random"],
}  # fmt: skip
FAILING = ["uniform", "proportional", "regression"]
SEARCHES = {
    "failing": options(fails="tau-0-", balances=5, concurrency=1, merge_distance=0.0, baselines=FAILING),
    "asha": options(balances=6, rungs=3, reduction=3, concurrency=1, merge_distance=0.0),
    "screened": options(balances=8, concurrency=1, screen="skip", merge_distance=0.0),
    "everything": options(balances=8, concurrency=1, merge_distance=0.0),
    "misled": options(misleading=True, balances=8, concurrency=1, screen="skip", merge_distance=0.0),
    "merges": options(**MERGES),
    "again": options(**MERGES),
}


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """Name of one of these searches -> (its outcome, its folder); one process has made them all."""
    root = tmp_path_factory.mktemp("searches")
    folders = {name: root / name for name in SEARCHES} | {"again": root / "merges"}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    outcomes = Driver(root, *((folders[name], told) for name, told in SEARCHES.items())).outcomes()
    return {name: (outcome, folders[name]) for name, outcome in zip(SEARCHES, outcomes, strict=True)}


@pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGKILL, id="kill -9"), pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.faults)],
)
def test_a_search_ended_in_mid_trial_repeats_no_finished_trial(tmp_path, how):
    plan = {"balances": 4, "seeds": 1, "concurrency": 1}
    first = Driver(tmp_path, (tmp_path, options(seconds=3, **plan)))
    done = first.end_after(2, how)
    assert first.process.returncode != 0
    assert how != signal.SIGINT or "KeyboardInterrupt" in first.printed
    before = {name: (tmp_path / "trials" / name / "manifest.json").stat().st_mtime_ns for name in done}
    at_first = trained(tmp_path)
    # The third time all is finished: nothing is trained, and Tune is not asked.
    outcome, third = Driver(tmp_path, *[(tmp_path, options(**plan))] * 2).outcomes()
    assert third == outcome
    assert {name: (tmp_path / "trials" / name / "manifest.json").stat().st_mtime_ns for name in done} == before
    again = trained(tmp_path)[len(at_first) :]
    assert not {line.split()[0] for line in again} & {name.rpartition("-")[0] for name in done}
    assert len(outcome["finished"]) == len(set(at_first + again))
    assert len(again) == len(set(again))


def test_a_failed_trial_does_not_end_the_search(searches):
    outcome, folder = searches["failing"]
    assert list(outcome["failed"]) == ["tau-0"]
    assert "TrainingError" in outcome["failed"]["tau-0"]
    assert "the loss became nan" in outcome["failed"]["tau-0"]
    assert {"uniform", "proportional"} < set(outcome["finished"])
    assert outcome["winner"] != "tau-0"
    # Of the scores of those that did not fail.
    assert "regression" in outcome["finished"]
    assert trained(folder)[-1].startswith("regression-seed0 ")


def test_asha_stops_losers_and_the_rest_gets_the_full_budget(searches):
    outcome, folder = searches["asha"]
    budgets = [int(line.split()[1]) for line in trained(folder) if line.startswith("tau-")]
    assert set(budgets) == {10, 30, 90}
    assert outcome["stopped"]
    assert budgets.count(10) == len(outcome["stopped"]) + sum(n.startswith("tau-") for n in outcome["finished"])
    assert budgets.count(90) < budgets.count(10)
    assert all(line.split()[1] == "90" for line in trained(folder) if not line.startswith("tau-"))


def test_merges_spare_the_training_of_hopeless_mixtures(searches):
    outcome, folder = searches["screened"]
    found = outcome["screen"]
    assert found["warranted"]
    assert found["mixtures"] == 6  # two baselines and half of the balances
    assert found["skipped"]
    assert not {line.split("-seed")[0] for line in trained(folder)} & set(found["skipped"])
    # Nothing better was skipped: with every trial trained, the same one wins.
    assert searches["everything"][0]["winner"] == outcome["winner"]


def test_merges_that_mislead_spare_nothing(searches):
    outcome, _ = searches["misled"]
    assert not outcome["screen"]["warranted"]
    assert outcome["screen"]["skipped"] == []
    assert len(outcome["finished"]) == 10


def test_merges_propose_what_is_trained_and_are_made_once(searches):
    outcome, folder = searches["merges"]
    found = outcome["merges"]
    assert found["used"]
    assert found["pilots"]["mixtures"] == 4 + 2
    assert 1 <= len(found["proposed"]) <= 3
    # These are of both runs: the second one made, scored and trained nothing.
    assert len(trained(folder)) == 6 + len(found["proposed"])
    merged = (folder / "merged").read_text().splitlines()
    assert len(merged) == len(set(merged)) == found["scored"] == len(list(folder.glob("screens/*")))
    assert not list(folder.glob("merges/*"))
    assert searches["again"][0] == outcome


def test_trackers_see_every_trial_under_its_name(tmp_path, monkeypatch):
    """W&B writes its offline files and MLflow its local store; both are optional packages."""
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    store = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (outcome,) = Driver(tmp_path, (tmp_path, options(balances=2, loggers=["wandb", "mlflow"]))).outcomes()
    mlflow.set_tracking_uri(store)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {run.info.run_name for run in runs} == set(outcome["finished"])
    assert all("gold_logprob" in run.data.metrics for run in runs)
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == len(outcome["finished"])


def test_optuna_proposes_as_many_candidates_and_goes_on_from_finished_ones(tmp_path):
    plan = {"balances": 5, "algorithm": "optuna", "baselines": ["uniform"], "concurrency": 1}
    done = Driver(tmp_path, (tmp_path, options(seconds=2, **plan))).end_after(3, signal.SIGKILL)
    (outcome,) = Driver(tmp_path, (tmp_path, options(**plan))).outcomes()
    assert outcome["winner"].startswith("tau-")
    names = [line.split()[0] for line in trained(tmp_path)]
    assert all(names.count(name.rpartition("-")[0]) == 1 for name in done)
    assert len(list(tmp_path.glob("search/points-*/*.json"))) in (5, 6)
