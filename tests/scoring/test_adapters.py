"""Adapters on an engine's node: checked, fetched ahead, and only so many of them kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from taskpgm_ray.config import LoraSection, ModelConfig
from taskpgm_ray.errors import ModelError
from taskpgm_ray.models import resolve
from taskpgm_ray.scoring.adapters import SETTINGS, WEIGHTS, AdapterFolders, check_adapter, expected_shapes
from taskpgm_ray.storage import Storage, Unit

LORA = LoraSection(r=4, alpha=8)


@pytest.fixture(scope="module")
def model(tiny_llama):
    return resolve(ModelConfig(path=str(tiny_llama), dtype="float32"), Storage("unused"))


@pytest.fixture(scope="module")
def shapes(model):
    return expected_shapes(model, LORA)


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "study"))


def write(storage, shapes, name="a-1", dropped=(), **settings):
    """An adapter of the given shapes as a unit."""
    from safetensors.numpy import save

    unit = Unit(storage, f"adapters/{name}")
    tensors = {key: np.zeros(shape, np.float32) for key, shape in shapes.items() if key not in dropped}
    unit.files.write_bytes(WEIGHTS, save(tensors))
    unit.files.write_json(SETTINGS, {"r": 4, "lora_alpha": 8, "bias": "none", **settings})
    return unit


def check(unit, shapes):
    check_adapter(Path(unit.storage.path(unit.path)), unit.path, LORA, shapes)


def test_what_peft_writes_is_what_is_expected(tiny_llama, tmp_path, shapes):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(tmp_path)
    check_adapter(tmp_path, "a", LORA, shapes)
    with pytest.raises(ModelError, match=r"of another base model: .*down_proj.* has shape"):
        check_adapter(tmp_path, "a", LORA, {k: s for k, s in shapes.items() if "down_proj" not in k})


def test_chosen_modules_only(model, shapes):
    chosen = expected_shapes(model, LoraSection(r=4, alpha=8, target_modules=("q_proj",)))
    assert chosen == {key: shape for key, shape in shapes.items() if ".q_proj." in key}
    assert len(chosen) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 8}, "has rank 8 and alpha 8, the study's adapters have 4 and 8"),
        ({"lora_alpha": 32}, "has rank 4 and alpha 32"),
        ({"use_dora": True}, "trains more than LoRA matrices"),
        ({"bias": "all"}, "trains more than LoRA matrices"),
        ({"modules_to_save": ["lm_head"]}, "trains more than LoRA matrices"),
    ],
)
def test_other_settings_are_refused(storage, shapes, settings, message):
    with pytest.raises(ModelError, match=rf"adapters/a-1 {message}.*remove its folder"):
        check(write(storage, shapes, **settings), shapes)


def test_other_shapes_are_refused(storage, shapes):
    key = sorted(shapes)[0]
    check(write(storage, shapes), shapes)
    for unit in (
        write(storage, shapes, dropped=[key]),
        write(storage, {**shapes, "base_model.model.lm_head.lora_A.weight": (4, 128)}),
        write(storage, {**shapes, key: (4, 999)}),
    ):
        with pytest.raises(ModelError, match="adapter adapters/a-1 is of another base model"):
            check(unit, shapes)


def test_missing_and_damaged_files_are_refused(storage, shapes):
    unit = write(storage, shapes)
    path = Path(storage.path(f"{unit.path}/{WEIGHTS}"))
    content = path.read_bytes()
    for damaged in (content[:-1], content[:40], b""):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="adapter adapters/a-1 is not usable"):
            check(unit, shapes)
    path.write_bytes(content)
    check(unit, shapes)
    unit.files.write_bytes(SETTINGS, b"{")
    with pytest.raises(ModelError, match="adapter adapters/a-1 is not usable"):
        check(unit, shapes)


def test_on_a_mounted_disk_nothing_is_copied(storage, shapes, model):
    unit = write(storage, shapes)
    assert AdapterFolders(model, LORA, 4).folder(unit) == Path(storage.path(unit.path))


@pytest.fixture
def remote(monkeypatch):
    """Local storage that passes for an object store, and what was read of it."""
    read = []
    original = Storage.read_bytes
    monkeypatch.setattr(Storage, "is_local", property(lambda self: False))
    monkeypatch.setattr(Storage, "read_bytes", lambda self, name: read.append(self.uri) or original(self, name))
    return read


def test_of_a_remote_storage_only_so_many_are_kept(storage, shapes, model, remote):
    units = [write(storage, shapes, name=f"a-{i}") for i in range(5)]
    folders = AdapterFolders(model, LORA, 2)
    paths = [folders.folder(unit) for unit in units]
    assert folders.folder(units[4]) == paths[4]
    folders._fetcher.shutdown(wait=True)
    assert [path.exists() for path in paths] == [False, False, False, True, True]
    assert json.loads((paths[4] / SETTINGS).read_text())["r"] == 4
    assert len(remote) == 10


def test_what_was_fetched_ahead_is_not_fetched_again(storage, shapes, model, remote):
    units = [write(storage, shapes, name=f"a-{i}") for i in range(3)]
    folders = AdapterFolders(model, LORA, 3)
    folders.fetch(units)
    for unit in units:
        assert (folders.folder(unit) / WEIGHTS).exists()
    assert len(remote) == 6


def test_a_failed_fetch_is_tried_again_when_asked_for_again(storage, shapes, model, remote):
    unit = Unit(storage, "adapters/late-1")
    folders = AdapterFolders(model, LORA, 2)
    with pytest.raises(Exception, match="missing"):
        folders.folder(unit)
    write(storage, shapes, name="late-1")
    assert (folders.folder(unit) / WEIGHTS).exists()
