"""What is found wrong with a study's resources before Ray is started."""

import importlib.util
import os

import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import ConfigError, ModelError, Problems, ResourceError
from taskpgm_ray.runtime.preflight import preflight


@pytest.fixture
def good(monkeypatch):
    """A config (as a dictionary) that a machine of four CPUs can hold."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    return {
        "study": "s",
        "pool": {"tasks": ["jsonl:x"]},
        "finetune": {"steps": 3},
        "scoring": {"scorer": "hf"},
    }


def changed(config, overrides):
    return load_config(config, overrides)


def test_vllm_that_is_not_installed(good, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    preflight(load_config(good))
    with pytest.raises(ModelError, match=r"scoring.scorer is vllm, .*taskpgm-ray\[cpu\].*; or set scoring.scorer=hf"):
        preflight(changed(good, ["scoring.scorer=vllm"]))


@pytest.mark.parametrize("where", ["cluster.address=auto", "RAY_ADDRESS"])
def test_a_clusters_resources_are_its_own(good, monkeypatch, where):
    overrides = ["finetune.lanes.cpus=96", "finetune.lanes.gpus=1", "finetune.lanes.workers=8"]
    if where == "RAY_ADDRESS":
        monkeypatch.setenv(where, "127.0.0.1:6379")
    else:
        overrides.append(where)
    assert "resources: the cluster's own, known when the study connects to it" in preflight(changed(good, overrides))


@pytest.mark.parametrize("where", ["cluster.address", "RAY_ADDRESS"])
@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "ray://10.0.0.1:10001",
            "a study does not run through Ray Client; run on a machine of the cluster with cluster",
        ),
        ("http://10.0.0.1:8265", "is a dashboard, which takes submitted jobs and no drivers; .*`ray job submit`"),
    ],
)
def test_addresses_that_cannot_be_joined(good, monkeypatch, where, address, message):
    if where == "RAY_ADDRESS":
        monkeypatch.setenv(where, address)
    overrides = [] if where == "RAY_ADDRESS" else [f"{where}={address}"]
    with pytest.raises(ResourceError, match=f"{where}={address}.*{message}"):
        preflight(changed(good, overrides))


@pytest.mark.parametrize(("visible", "have"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2)])
def test_gpus_of_this_machine(good, monkeypatch, visible, have):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    parts = f"scoring.engines.tensor_parallel={max(have, 1)}"
    preflight(changed(good, [f"scoring.engines.gpus={have}", "finetune.lanes.gpus=0", parts]))
    more = [f"scoring.engines.gpus={have + 1}", f"scoring.engines.tensor_parallel={have + 1}"]
    with pytest.raises(ResourceError, match=rf"scoring.engines.gpus is {have + 1}, but this machine has {have} GPUs"):
        preflight(changed(good, more))


def test_a_lane_and_an_engine_on_every_cpu_are_fine(good):
    preflight(changed(good, ["finetune.lanes.cpus=4", "scoring.engines.cpus=4"]))


def test_merges_that_could_never_be_trusted_are_refused(good):
    merging = ["search.algorithm=merge"]
    with pytest.raises(
        ConfigError, match=r"these are 4 mixtures, and fewer than 6 prove nothing: add to search.baseline"
    ):
        preflight(changed(good, merging))
    for more in (
        ["search.baselines=[uniform, proportional, temperature, random]"],
        ["search.affinities=[jsd, pmi]"],
        # Drawn anew for every seed.
        ["search.baselines=[random]", "search.seeds=4"],
        ["mixture.tau=1"],
    ):
        preflight(changed(good, [*merging, *more]))


def test_preflight_reads_no_task_and_no_model(good):
    lines = preflight(changed(good, ["pool.tasks=['jsonl:/no/where']", "model.path=/no/model"]))
    assert lines[0] == "scorer: hf is installed"


def test_everything_that_is_lacking_is_told(good, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    overrides = ["finetune.lanes.cpus=5", "scoring.engines.cpus=5", "scoring.engines.gpus=2"]
    overrides.append("scoring.engines.tensor_parallel=2")
    with pytest.raises(Problems) as caught:
        preflight(changed(good, overrides))
    assert [line.split(" is ")[0] for line in caught.value.lines] == [
        "ResourceError: finetune.lanes.cpus",
        "ResourceError: scoring.engines.cpus",
        "ResourceError: scoring.engines.gpus",
    ]
