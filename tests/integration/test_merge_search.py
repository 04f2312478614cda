"""A small study that searches by merges: real adapters are merged in Ray tasks, and engines score what comes out."""

import io
import json

import pytest
from rich.console import Console

from taskpgm_ray import Study
from taskpgm_ray.config import load_config
from taskpgm_ray.search import merge_search

pytestmark = [pytest.mark.integration, pytest.mark.long]


def run(config, offline=False):
    console = Console(file=io.StringIO(), width=200)
    Study(load_config(config), console, offline).run()
    return console.file.getvalue()


def test_merges_are_scored_propose_balances_and_are_not_kept(local_ray, tiny_config, tmp_path, monkeypatch):
    # With six steps of training the agreement is what it happens to be; the search is to use merges whatever it is.
    monkeypatch.setattr(merge_search, "WARRANTED", -2.0)
    config = tiny_config(tmp_path)
    config["scoring"]["scorer"] = "hf"
    config["evaluation"] = {"max_subjects": 2, "max_bbh_tasks": 2, "report_seeds": 1, "samples": 0}
    baselines = ["uniform", "random", "equal_loss", "clusters:2"]
    config["search"] = {
        "algorithm": "merge", "merges": 12, "balances": 4, "tau": [0.0, 2.0], "baselines": baselines,
    }  # fmt: skip
    printed = run(config)
    folder = tmp_path / "tiny"
    found = json.loads((folder / "mixture.json").read_text())["merges"]
    assert found["used"]
    trials = {path.name.rpartition("-seed")[0] for path in folder.glob("trials/*")}
    assert found["proposed"]
    assert set(found["proposed"]) < trials
    assert found["trained"]["mixtures"] == len(trials) <= len(baselines) + 4
    assert found["pilots"]["mixtures"] == len(trials) - len(found["proposed"])
    # Every merge was scored once, and of none the adapter is left.
    assert found["scored"] == len(list(folder.glob("screens/*"))) <= 12 + len(trials)
    assert not list(folder.glob("merges/*"))
    scores = [json.loads(path.read_text())["summary"] for path in folder.glob("screens/*/manifest.json")]
    assert len({score["gold_logprob"] for score in scores}) > len(scores) / 2
    assert "Weighted merges of the single-task adapters ranked" in (folder / "report.html").read_text()
    assert "merges: " in printed
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    assert "merges: nothing to do" in run(config, offline=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")} == before
