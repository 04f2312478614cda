"""YAML files of lm-eval's tasks: everything that their items depend on is part of their identity."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import harness, task_files

HUB = "task: t\ndataset_path: org/name\noutput_type: multiple_choice\n"
LOCAL = """
include: base.yaml
task: t
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl, validation: ["more-*.jsonl"]}}
process_docs: !function utils.process
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task with an include, which has an include and a function of its own; the command is started beside it."""
    monkeypatch.chdir(tmp_path)
    files = {
        "t.yaml": LOCAL,
        "base.yaml": "include: [deep.yaml]\noutput_type: generate_until\n",
        "deep.yaml": "doc_to_text: !function prompts.text\n",
        "utils.py": "def process(docs): return docs\n",
        "prompts.py": "def text(doc): return doc['q']\n",
        "docs.jsonl": "{}\n",
        "more-1.jsonl": "{}\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_a_file_that_uses_no_other_is_known_by_its_own_hash(tmp_path: Path) -> None:
    """What a study found by it earlier is found again."""
    file = tmp_path / "t.yaml"
    file.write_text(HUB)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert harness.identity([str(file), "arc_easy"])[1] == [digest, "arc_easy"]
    assert not task_files.is_local(str(file))
    assert not task_files.is_local("arc_easy")


@pytest.mark.parametrize(
    "name", ["t.yaml", "base.yaml", "deep.yaml", "utils.py", "prompts.py", "docs.jsonl", "more-1.jsonl"]
)
def test_every_file_that_a_task_uses_counts(folder: Path, name: str) -> None:
    assert task_files.is_local("t.yaml")
    before = harness.identity(["t.yaml"])
    with (folder / name).open("a") as file:
        file.write("# changed\n")
    assert harness.identity(["t.yaml"]) != before


def test_a_further_file_of_a_pattern_counts(folder: Path) -> None:
    before = harness.identity(["t.yaml"])
    (folder / "more-2.jsonl").write_text("{}\n")
    assert harness.identity(["t.yaml"]) != before


def test_a_folder_of_documents_counts(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "test.jsonl").write_text("{}\n")
    (folder / "f.yaml").write_text("task: f\ndataset_path: set\n")
    assert task_files.is_local("f.yaml")
    before = harness.identity(["f.yaml"])
    (folder / "set" / "test.jsonl").write_text('{"a": 1}\n')
    assert harness.identity(["f.yaml"]) != before


@pytest.mark.parametrize("data", ["{data_dir: set}", "{data_dir: set, data_files: test.jsonl}"])
def test_documents_in_a_named_folder_count(folder: Path, data: str) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "test.jsonl").write_text("{}\n")
    (folder / "f.yaml").write_text(f"task: f\ndataset_path: json\ndataset_kwargs: {data}\n")
    before = harness.identity(["f.yaml"])
    (folder / "set" / "test.jsonl").write_text('{"a": 1}\n')
    assert harness.identity(["f.yaml"]) != before


def test_documents_on_the_network_are_left_alone(folder: Path) -> None:
    (folder / "f.yaml").write_text(
        "task: f\ndataset_path: json\ndataset_kwargs: {data_files: 'https://example.org/a.jsonl'}\n"
    )
    assert not task_files.is_local("f.yaml")
    task_files.check("f.yaml")


def test_tasks_that_a_group_spells_out_count(folder: Path) -> None:
    inner = "{task: a, dataset_path: json, dataset_kwargs: {data_files: docs.jsonl}}"
    (folder / "g.yaml").write_text(f"group: g\ntask: [{inner}]\n")
    assert task_files.is_local("g.yaml")
    before = harness.identity(["g.yaml"])
    (folder / "docs.jsonl").write_text("{}\n{}\n")
    assert harness.identity(["g.yaml"]) != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("include: nowhere.yaml\n", r"bad.yaml includes 'nowhere.yaml', which is not there \(looked in"),
        ("include: bad.yaml\n", "bad.yaml includes itself"),
        ("task: [", "bad.yaml is not a readable YAML file: "),
        ("- a\n", "must hold an lm-eval task"),
        (
            "dataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\n",
            r"reads its documents from 'nowhere.jsonl', which is not there \(looked in .*count from the folder",
        ),
    ],
)
def test_a_file_that_cannot_work_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "bad.yaml").write_text(content)
    with pytest.raises(EvaluationError, match=message):
        task_files.check("bad.yaml")


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"do_sample": True}, True),
        ({"temperature": 0.5}, True),
        ({"do_sample": True, "temperature": 0.0}, True),
        ({"do_sample": False, "temperature": 0.5}, False),
        ({"do_sample": False}, False),
        ({"temperature": 0.0}, False),
        ({}, False),
        (None, False),
    ],
)
def test_sampling_is_refused_where_the_bridge_would(settings: Any, refused: bool) -> None:
    from lm_eval.models.utils import normalize_gen_kwargs

    normal = normalize_gen_kwargs(dict(settings or {}), 8)
    assert bool(normal.get("do_sample") or normal.get("temperature")) == refused
    if not refused:
        task_files.refuse_sampling("t", settings)
        return
    with pytest.raises(EvaluationError, match="lm-eval's 't' wants sampled text"):
        task_files.refuse_sampling("t", settings)
