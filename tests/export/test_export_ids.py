"""Formats that hand over token ids: what the trainer reads is, token by token, what the study trained."""

import importlib.util
import json
import re
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from taskpgm_ray.export import export
from taskpgm_ray.export.registry import SAME_TOKENS


def counted(pairs, study):
    """Task -> how often its examples occur among (ids, labels), which have to be what the study trained."""
    trained = {
        (tuple(row["prompt_ids"] + row["response_ids"]), tuple(row["response_ids"])): task.name
        for task in study.tasks
        for row in study.table(task.name)
        if row["split"] == "train" and row["prompt"] not in study.withheld
    }
    return Counter(trained[tuple(ids), tuple(label for label in labels if label != -100)] for ids, labels in pairs)


def as_axolotl(files):
    from datasets import load_from_disk

    (source,) = yaml.safe_load(files[0].read_text())["datasets"]
    rows = load_from_disk(source["path"])
    # The three columns by which it knows tokenised data.
    assert rows.column_names == ["input_ids", "attention_mask", "labels"]
    assert all(set(row["attention_mask"]) == {1} for row in rows)
    return [(row["input_ids"], row["labels"]) for row in rows]


def as_llamafactory(files):
    from datasets import load_from_disk

    return [
        (row["input_ids"], row["labels"])
        for row in load_from_disk(yaml.safe_load(files[0].read_text())["tokenized_path"])
    ]


def as_trl(files):
    from datasets import load_dataset

    settings = yaml.safe_load(files[0].read_text())
    assert settings["completion_only_loss"] is True
    (source,) = settings["datasets"]
    rows = load_dataset(source["path"], data_files=source["data_files"], split="train").select_columns(
        source["columns"]
    )
    pairs = []
    for row in rows:
        labels = [i if learned else -100 for i, learned in zip(row["input_ids"], row["completion_mask"], strict=True)]
        # It truncates to so many from the start, whatever they are.
        pairs.append((row["input_ids"][: settings["max_length"]], labels[: settings["max_length"]]))
    return pairs


def as_swift(files):
    """Its template's method on the messages of its files, each as often as the settings say."""
    settings = yaml.safe_load(files[0].read_text())
    registered = {}
    swift, template = ModuleType("swift"), ModuleType("swift.template")
    template.Template = object
    template.TemplateMeta = lambda name, *, template_cls, **prompts: (name, template_cls)
    template.register_template = lambda meta, exist_ok: registered.update([meta])
    (plugin,) = settings["external_plugins"]
    spec = importlib.util.spec_from_file_location("plugin", plugin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "swift", swift)
        patch.setitem(sys.modules, "swift.template", template)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    encode = registered[settings["template"]]()._encode
    pairs = []
    for source in settings["dataset"]:
        path, _, count = source.rpartition("#")
        with open(path) as stream:
            rows = [encode(SimpleNamespace(messages=json.loads(line)["messages"])) for line in stream]
        for number in range(int(count)):
            row = rows[number % len(rows)]
            pairs.append((row["input_ids"], row["labels"]))
    return pairs


TRAINERS = {"axolotl": as_axolotl, "llamafactory": as_llamafactory, "swift": as_swift, "trl": as_trl}


def test_every_format_that_promises_the_same_tokens_is_tested_here():
    assert set(SAME_TOKENS) == set(TRAINERS)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("name", ["plain_study", "chat_study", "tools_study", "hard_study"])
def test_the_trainer_learns_exactly_the_tokens_of_the_study(request, monkeypatch, tmp_path, trainer, name):
    """Also where tools are called, where prompts end with white space, which trainers tokenise otherwise, and where the
    study cut them."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    study, told = request.getfixturevalue(name), []
    pairs = TRAINERS[trainer](export(trainer, study.folder, tmp_path / "out", tell=told.append))
    assert counted(pairs, study) == {task: count for task, count in study.counts.items() if count}
    assert told == [], "what is the same needs no remark"


def test_the_mixture_is_shuffled_and_the_same_again(plain_study, tmp_path):
    first, again, other = (
        as_axolotl(export("axolotl", plain_study.folder, tmp_path / name, seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other
    lengths = [len(ids) for ids, _ in first]
    assert lengths != sorted(lengths)


@pytest.mark.parametrize("trainer", ["jsonl", "parquet", "datasets", "ray", "streaming"])
def test_formats_of_text_say_which_prompts_the_study_has_cut(hard_study, plain_study, tmp_path, trainer):
    told = []
    export(trainer, hard_study.folder, tmp_path / "a", tell=told.append)
    (remark,) = told
    cut = Counter(task.name for task in hard_study.tasks for row in hard_study.table(task.name) if row["cut"])
    assert set(cut) == {"copy"}
    assert "(64 tokens) leaves room for: copy 46 of 46; " in remark
    assert "(to train the same tokens: axolotl, llamafactory, swift, trl)" in remark
    export(trainer, plain_study.folder, tmp_path / "b", tell=told.append)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("trainer", "setting"),
    [("axolotl", r"dataset_prepared_path: (\S+)"), ("open-instruct", r"--dataset_local_cache_dir (\S+)")],
)
def test_another_mixture_in_the_same_folder_is_prepared_anew(short_study, tmp_path, trainer, setting):
    """These trainers find what they prepared by paths and counts, whatever the files hold by now."""

    def prepared(**options):
        first, *_ = export(trainer, short_study.folder, tmp_path / "out", **options)
        return re.search(setting, first.read_text())[1]

    first = prepared()
    assert first.startswith(str(tmp_path / "out"))
    assert prepared() == first
    assert prepared(seed=1) != first
    weights = tmp_path / "mine.csv"
    weights.write_text("copy,1\nreverse,3\n")
    assert prepared(mixture=str(weights)) != first
