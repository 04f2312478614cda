"""Local folders behind ``hf:``: known by their content, read wherever the work is done, never looked up on the hub."""

import json
import os

import pytest

from taskpgm_ray.config import PoolConfig
from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.sources import task_sources


def rows(count=8, answer="r"):
    return "".join(json.dumps({"prompt": f"q{i}", "response": f"{answer}{i}"}) + "\n" for i in range(count))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.jsonl").write_text(rows())
    (tmp_path / "jsonl").mkdir()
    (tmp_path / "jsonl" / "other.jsonl").write_text(rows(answer="s"))
    return tmp_path


def source(target, scheme="hf"):
    """The first task of a pool with this target, and one of JSON lines beside it."""
    return task_sources(PoolConfig(tasks=(f"{scheme}:{target}", "reasoning_gym:gcd", "reasoning_gym:lcm")))[0]


def test_the_identity_follows_the_content_and_not_the_place(folder):
    first = source("./mine").identity()
    assert source("mine").identity() == source(f"{folder}/mine").identity() == first
    (folder / "mine").rename(folder / "moved")
    assert source("./moved").identity() == first
    (folder / "moved" / "train.jsonl").write_text(rows(answer="other"))
    assert source("./moved").identity() != first


@pytest.mark.parametrize(("target", "scheme"), [("./mine", "hf"), ("mine", "hf"), ("jsonl/other.jsonl", "jsonl")])
def test_it_is_read_from_another_folder(folder, tmp_path_factory, target, scheme):
    """As in a Ray worker that was started elsewhere."""
    task = source(target, scheme)
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert task.identity()
    assert len(task.read(100, 0).rows) == 8


@pytest.mark.parametrize("target", ["./nowhere", "../nowhere", "/nowhere", "~/nowhere", "org/nowhere.jsonl"])
def test_a_path_that_is_not_there_never_goes_to_the_hub(folder, target, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: pytest.fail("the hub was asked"))
    with pytest.raises(DataError, match=r"there is no folder '.*nowhere") as caught:
        source(target)
    relative = not target.startswith(("/", "~"))
    assert (f"(looked in {os.getcwd()})" in str(caught.value)) == relative


def test_a_file_is_for_another_scheme(folder):
    with pytest.raises(DataError, match=r"'mine/train.jsonl' is a file, and hf: reads folders; write files:mine/train"):
        source("mine/train.jsonl")


def test_a_name_on_the_hub_stays_one(folder):
    assert source("org/name").identity()["source"] == "hf:org/name"
