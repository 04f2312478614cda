"""What a study's folder says it holds, after runs that were ended and configs that were changed: no Ray."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from taskpgm_ray import study as module
from taskpgm_ray.config import load_config
from taskpgm_ray.export.examples import study_config
from taskpgm_ray.judge.hand_over import hand_over
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.study import Study


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of this balance."""
    monkeypatch.setattr(module, "summary", lambda *_: "")
    monkeypatch.setattr(module, "render", lambda data: data.verdict)

    def made(tau):
        config = {
            "study": "s", "storage": str(tmp_path), "pool": {"tasks": ["jsonl:a", "jsonl:b"]},
            "finetune": {"steps": 9}, "search": {"balances": 0}, "mixture": {"tau": tau},
        }  # fmt: skip
        return Study(load_config(config), Console(quiet=True))

    return made


def publish(study, tau):
    data = SimpleNamespace(config_yaml=study.config.to_yaml(), verdict=f"report of {tau}", stages=[], versions={})
    study._publish({"tau": tau}, data, f"affinity of {tau}", None)


def results(study):
    return study.storage.read_json("mixture.json"), study.storage.read_bytes("report.html").decode()


def test_results_that_another_run_began_to_write_are_written_anew(study, monkeypatch):
    publish(study(1.0), 1.0)

    def interrupted(data):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            publish(study(2.0), 2.0)
    publish(study(1.0), 1.0)
    assert results(study(1.0)) == ({"tau": 1.0}, "report of 1.0")


def test_results_are_read_with_the_config_that_made_them(study):
    first = study(1.0)
    with first.driving():
        publish(first, 1.0)
    assert study_config(first.storage).mixture.tau == 1.0
    with study(2.0).driving():
        assert load_config(Path(first.storage.path("config.yaml"))).mixture.tau == 2.0
    assert study_config(first.storage).mixture.tau == 1.0
    with study(2.0).driving():
        publish(study(2.0), 2.0)
    assert study_config(first.storage).mixture.tau == 2.0
    # A study of before has no config of its results, and that of its last run is taken.
    first.storage.delete_file("finished.yaml")
    assert study_config(first.storage).mixture.tau == 2.0


class Tokenizer:
    def save_pretrained(self, folder):
        Path(folder, "tokenizer.json").write_text("tokens")


@pytest.fixture
def handed(tmp_path, monkeypatch):
    """Hand over a fine-tune with these files; what then lies in the study's folders."""
    storage = Storage(str(tmp_path))

    def over(name, full, files):
        unit = Unit(storage, f"mixtures/{name}")
        for file, content in files.items():
            unit.files.write_bytes(file, content)
        unit.finish({"steps": 1, "tokens": 2})
        planner = SimpleNamespace(
            storage=storage,
            config=SimpleNamespace(seed=0, model=SimpleNamespace(path="base")),
            model=SimpleNamespace(tokenizer=Tokenizer),
            job=lambda chosen, seed: SimpleNamespace(unit=unit, recipe=SimpleNamespace(full=full)),
        )
        monkeypatch.setattr("taskpgm_ray.judge.hand_over.model_card", lambda *_: f"card of {name}")
        hand_over(Candidate("tau-1", "balance", 1.0, None, "jsd"), "", [], planner, None)
        return {
            f.relative_to(tmp_path).as_posix(): f.read_bytes()
            for f in [*tmp_path.glob("adapter/*"), *tmp_path.glob("model/*")]
        }

    return over


def test_no_file_of_an_earlier_winner_is_handed_over(handed):
    one = handed("one", True, {"model.safetensors": b"1", "config.json": b"{}"})
    assert one["model/model.safetensors"] == b"1"
    parts = {f"model-0000{k}-of-00002.safetensors": b"%d" % k for k in (1, 2)}
    two = handed("two", True, parts | {"model.safetensors.index.json": b"2", "config.json": b"{}"})
    # transformers would take the whole file before the parts.
    assert "model/model.safetensors" not in two
    assert {name.partition("/")[2] for name in two} == {
        *parts, "model.safetensors.index.json", "config.json", "tokenizer.json", "README.md"
    }  # fmt: skip
    adapter = handed("three", False, {"adapter_model.safetensors": b"3", "adapter_config.json": b"{}"})
    assert set(adapter) == {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/README.md"}


def test_a_model_that_was_half_written_is_written_anew(handed, monkeypatch):
    files = {"model.safetensors": b"1", "config.json": b"{}"}
    handed("one", True, files)
    write = Storage.write_bytes

    def ended(self, relative, content):
        if relative == "README.md":
            raise KeyboardInterrupt
        write(self, relative, content)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_bytes", ended)
        with pytest.raises(KeyboardInterrupt):
            handed("two", True, {"model.safetensors": b"2", "config.json": b"{}"})
    assert handed("one", True, files)["model/model.safetensors"] == b"1"
