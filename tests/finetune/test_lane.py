"""What a lane loads: no Ray."""

import shutil

import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import ModelError
from taskpgm_ray.finetune.lane import LaneSpec, make_trainer
from taskpgm_ray.models import resolve
from taskpgm_ray.storage import Storage


def test_a_base_model_that_is_another_on_this_node_is_not_trained(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    study = {"study": "s", "pool": {"tasks": ["jsonl:a", "jsonl:b"]}, "finetune": {"steps": 1}}
    config = load_config(study | {"model": {"path": str(folder), "dtype": "float32", "max_length": 64}})
    storage = Storage(str(tmp_path))
    spec = LaneSpec(resolve(config.model, storage), config.finetune.adapter, config.finetune.lanes, storage)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match="are not those that this study started with"):
        make_trainer(spec, "cpu", None)
