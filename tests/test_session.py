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


def test_what_vllm_does_not_serve_is_refused_before_it_is_trained(connecting):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with pytest.raises(ModelError, match=r"vLLM does not serve LoRA adapters on BloomForCausalLM .*scoring.scorer=hf"):
        connecting("BloomForCausalLM", "vllm")
    connecting("BloomForCausalLM", "hf")
    connecting("LlamaForCausalLM", "vllm")
    connecting("SomethingNewForCausalLM", "vllm")
