"""The live parts of a run: what is refused before anything is started for money."""

import importlib.util
import json
import shutil

import pytest
from rich.console import Console

import taskpgm_ray.session as sessions
from taskpgm_ray.config import load_config
from taskpgm_ray.errors import ModelError
from taskpgm_ray.models import resolve
from taskpgm_ray.storage import Storage


@pytest.fixture
def connecting(tiny_llama, tmp_path, monkeypatch):
    """Connect a study of this architecture and scorer, without a Ray."""
    monkeypatch.setattr(sessions, "preflight", lambda config: [])
    monkeypatch.setattr(sessions, "ensure_ray", lambda config: False)
    monkeypatch.setattr(sessions, "check_capacity", lambda config: [])

    def connect(architecture, scorer):
        copy = shutil.copytree(tiny_llama, tmp_path / f"{architecture}-{scorer}")
        settings = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**settings, "architectures": [architecture]}))
        config = load_config(
            {
                "study": "s",
                "model": {"path": str(copy), "dtype": "float32"},
                "pool": {"tasks": ["jsonl:x"]},
                "finetune": {"steps": 1},
                "scoring": {"scorer": scorer},
            }
        )
        storage = Storage(str(tmp_path / "runs"))
        sessions.Session(config, resolve(config.model, storage), storage, Console()).connect()

    return connect


@pytest.mark.parametrize(
    ("ours", "room", "given", "lanes", "engines"),
    [
        (True, True, [], None, None),
        (True, False, [], 5.0, 30.0),
        (False, True, [], 5.0, 30.0),  # others may wait for what a shared cluster has
        (True, True, ["finetune.lanes.idle_seconds=7"], 7.0, None),
        (False, False, ["scoring.engines.idle_seconds=8"], 5.0, 8.0),
    ],
)
def test_how_long_idle_workers_stay(tiny_llama, tmp_path, monkeypatch, ours, room, given, lanes, engines):
    monkeypatch.setattr(sessions, "preflight", lambda config: [])
    monkeypatch.setattr(sessions, "ensure_ray", lambda config: ours)
    monkeypatch.setattr(sessions, "check_capacity", lambda config: [])
    monkeypatch.setattr(sessions, "side_by_side", lambda config: room)
    monkeypatch.setattr(sessions, "most_lanes", lambda: 64)
    monkeypatch.setattr("taskpgm_ray.finetune.fleet.Fleet", lambda spec: spec)
    monkeypatch.setattr("taskpgm_ray.scoring.pool.EnginePool", lambda spec: spec)
    config = load_config(
        {
            "study": "s",
            "model": {"path": str(tiny_llama), "dtype": "float32"},
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 1},
            "scoring": {"scorer": "hf"},
        },
        given,
    )
    storage = Storage(str(tmp_path / "runs"))
    session = sessions.Session(config, resolve(config.model, storage), storage, Console())
    assert session.fleet.config.idle_seconds == lanes
    assert session.pool.config.idle_seconds == engines


@pytest.mark.parametrize(("room", "least", "most"), [(64, 4, 8), (3, 3, 3)])
def test_no_more_lanes_than_the_drivers_node_can_steer(tiny_llama, tmp_path, monkeypatch, capsys, room, least, most):
    for name, value in (("preflight", []), ("ensure_ray", True), ("check_capacity", []), ("side_by_side", True)):
        monkeypatch.setattr(sessions, name, lambda config, value=value: value)
    monkeypatch.setattr(sessions, "most_lanes", lambda: room)
    monkeypatch.setattr("taskpgm_ray.finetune.fleet.Fleet", lambda spec: spec)
    config = load_config(
        {
            "study": "s",
            "model": {"path": str(tiny_llama), "dtype": "float32"},
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 1, "lanes": {"min": 4, "max": 8}},
            "scoring": {"scorer": "hf"},
        }
    )
    storage = Storage(str(tmp_path / "runs"))
    session = sessions.Session(config, resolve(config.model, storage), storage, Console(width=300))
    assert (session.fleet.config.min, session.fleet.config.max) == (least, most)
    assert ("finetune.lanes.max is 8, and 3 are used" in capsys.readouterr().out) == (room == 3)


def test_what_vllm_does_not_serve_is_refused_before_it_is_trained(connecting):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with pytest.raises(ModelError, match=r"vLLM does not serve LoRA adapters on BloomForCausalLM .*scoring.scorer=hf"):
        connecting("BloomForCausalLM", "vllm")
    connecting("BloomForCausalLM", "hf")
    connecting("LlamaForCausalLM", "vllm")
    connecting("SomethingNewForCausalLM", "vllm")
