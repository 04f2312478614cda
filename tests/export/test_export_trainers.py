import csv
import importlib.util
import json
from collections import Counter
from itertools import pairwise

import pytest
import yaml

from taskpgm_ray.errors import DataError, InputError, StorageError
from taskpgm_ray.export import EXPORTERS, export


def tasks_in(path):
    return Counter(json.loads(line)["task"] for line in path.read_text().splitlines())


@pytest.mark.parametrize("trainer", sorted(EXPORTERS))
def test_every_exporter_returns_the_files_that_it_wrote(document, files, tmp_path, trainer):
    written = export(trainer, document, tmp_path / "out", files)
    assert sorted(written) == sorted((tmp_path / "out").iterdir())
    assert all(path.stat().st_size for path in written)


def test_csv_holds_every_task_with_exact_weights(document, tmp_path):
    document["tasks"][0]["weight"], document["tasks"][1]["weight"] = 0.1 + 0.2, 0.5
    [path] = export("csv", document, tmp_path)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["boolq", "mawps", "unused", "sst2"]
    assert float(rows[0]["weight"]) == 0.1 + 0.2
    assert [int(row["count"]) for row in rows] == [50, 30, 0, 20]


def test_jsonl_holds_exactly_the_counts(document, files, tmp_path):
    [path] = export("jsonl", document, tmp_path, files)
    assert tasks_in(path) == {"boolq": 50, "mawps": 30, "sst2": 20}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    uses = Counter(line["prompt"] for line in lines if line["task"] == "boolq")
    assert sorted(Counter(uses.values()).items()) == [(1, 30), (2, 10)]  # 50 of 40: all once, 10 of them twice
    assert all(line["completion"] == " " + line["prompt"].split()[1].rstrip("?") for line in lines)
    # Shuffled: no task is a single run.
    names = [line["task"] for line in lines]
    assert sum(a != b for a, b in pairwise(names)) > 20


def test_jsonl_is_the_same_file_each_time(document, files, tmp_path):
    [first] = export("jsonl", document, tmp_path / "a", files)
    [second] = export("jsonl", document, tmp_path / "b", files)
    assert first.read_bytes() == second.read_bytes()


def test_llamafactory_files_agree_with_each_other(document, files, tmp_path):
    exact, sampled, registry = export("llamafactory", document, tmp_path / "out", files)
    info = json.loads(registry.read_text())
    assert registry.name == "dataset_info.json"
    assert {name: entry["num_samples"] for name, entry in info.items()} == {"boolq": 50, "mawps": 30, "sst2": 20}
    assert info["boolq"]["file_name"] == str(files["boolq"])
    assert info["boolq"]["columns"] == {"prompt": "prompt", "response": "response"}
    exact, sampled = yaml.safe_load(exact.read_text()), yaml.safe_load(sampled.read_text())
    for settings in (exact, sampled):
        assert settings["dataset"].split(",") == ["boolq", "mawps", "sst2"]
        assert settings["dataset_dir"] == str(tmp_path / "out")
        assert settings["stage"] == "sft"
    assert exact["mix_strategy"] == "concat"
    assert "interleave_probs" not in exact  # refused by the trainer beside concat
    assert sampled["mix_strategy"] == "interleave_over"
    assert [float(p) for p in sampled["interleave_probs"].split(",")] == [0.5, 0.3, 0.2]
    assert sampled["streaming"] is True
    assert sampled["max_steps"] == 13  # 100 examples in batches of 8


def test_llamafactory_refuses_a_name_that_would_be_two_data_sets(document, files, tmp_path):
    document["tasks"][0]["name"] = "a,b"
    with pytest.raises(InputError, match="separates data sets by commas; rename the task 'a,b'"):
        export("llamafactory", document, tmp_path, files | {"a,b": files["boolq"]})


def test_axolotl_reads_the_counted_examples_with_the_prompt_unchanged(document, files, tmp_path):
    path, data = export("axolotl", document, tmp_path, files)
    [source] = yaml.safe_load(path.read_text())["datasets"]
    assert (source["path"], source["ds_type"]) == (str(data), "json")
    kind = source["type"]
    line = json.loads(data.read_text().splitlines()[0])
    assert kind["no_input_format"].format(instruction=line[kind["field_instruction"]]) == line["prompt"]
    assert line[kind["field_output"]] == line["completion"]
    assert tasks_in(data).total() == 100


def test_trl_reads_the_counted_examples(document, files, tmp_path):
    path, data = export("trl", document, tmp_path, files)
    settings = yaml.safe_load(path.read_text())
    assert settings["datasets"] == [
        {"path": "json", "data_files": str(data), "columns": ["prompt", "completion"]},
    ]
    assert settings["completion_only_loss"] is True
    assert tasks_in(data).total() == 100


def test_the_datasets_module_loads_and_mixes(document, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    [path] = export("datasets", document, tmp_path, files)
    spec = importlib.util.spec_from_file_location("mixture_dataset", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    exact = Counter(row["prompt"].split()[0] for row in module.exact(seed=1))
    assert exact == {"boolq": 50, "mawps": 30, "sst2": 20}
    sampled = Counter(row["prompt"].split()[0] for row in module.sampled(seed=1))
    assert sampled.total() == 100
    # 4 standard deviations of a binomial count around what the weights ask for.
    assert abs(sampled["boolq"] - 50) < 20
    assert abs(sampled["sst2"] - 20) < 16


def test_names_cannot_break_out_of_the_generated_module(document, files, tmp_path):
    hostile = '"""\nraise SystemExit\n"""\\'
    document["tasks"][0]["name"] = hostile
    [path] = export("datasets", document, tmp_path, files | {hostile: files["boolq"]})
    names = {}
    exec(path.read_text().split("def _read")[0].replace("from datasets import", "# from datasets import"), names)
    assert list(names["TASKS"]) == [hostile, "mawps", "sst2"]


def test_unknown_trainers_and_missing_files(document, files, tmp_path):
    with pytest.raises(InputError, match=r"no exporter for 'nemo'; there are: axolotl, csv, datasets, jsonl"):
        export("nemo", document, tmp_path)
    with pytest.raises(InputError, match="trl needs the data file of each task; there is none for 'boolq'"):
        export("trl", document, tmp_path)
    files["mawps"].unlink()
    with pytest.raises(StorageError, match=r"task 'mawps': there is no file .*mawps.jsonl"):
        export("trl", document, tmp_path, files)


def test_an_invalid_mixture_is_not_exported(document, tmp_path):
    document["tasks"][0]["weight"] = 0.9
    with pytest.raises(InputError, match="the weights sum to"):
        export("csv", document, tmp_path)
    assert not list(tmp_path.glob("*.csv"))


def test_a_folder_that_cannot_be_made(document, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"taken.* cannot be written"):
        export("csv", document, tmp_path / "taken" / "out")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", DataError, "holds no examples"),
        (b'{"prompt": "a", "response": "b"}\n{"prompt"\n', DataError, "boolq.jsonl, line 2: not JSON"),
        (b'{"prompt": "a", "answer": "b"}\n', DataError, "line 1: needs a JSON object with the strings"),
        (b'{"prompt": "a", "response": 3}\n', DataError, "line 1: needs a JSON object with the strings"),
        (b"\xff\xfe", StorageError, "boolq.jsonl cannot be read"),
    ],
)
def test_bad_data_files_are_named_with_their_line(document, files, tmp_path, content, error, message):
    files["boolq"].write_bytes(content)
    with pytest.raises(error, match=message):
        export("jsonl", document, tmp_path, files)
