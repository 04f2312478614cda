"""What a study decided, in the formats of trainers: its own examples, exactly counted, nothing that it asks inside."""

import csv
import importlib.util
import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from taskpgm_ray.cli import main
from taskpgm_ray.commands.export import FORMATS
from taskpgm_ray.errors import InputError, StorageError
from taskpgm_ray.export import EXPORTERS, export

KINDS = sorted(set(FORMATS) - {"open-instruct"})


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def module(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def asked(line):
    """The question of a line of any format that holds text."""
    if "messages" in line:
        return "\n\n".join(message["content"] for message in line["messages"][:-1])
    if "text" in line:
        return line["text"]
    if isinstance(line["prompt"], list):
        return "\n\n".join(message["content"] for message in line["prompt"])
    return line["prompt"]


def test_the_command_line_knows_every_format():
    assert tuple(sorted(EXPORTERS)) == FORMATS


@pytest.mark.parametrize("trainer", FORMATS)
def test_every_format_writes_the_studys_own_examples_and_nothing_that_is_asked(study, short_study, tmp_path, trainer):
    if trainer in ("open-instruct", "torchtune"):
        if study.config.model.prompt_format == "plain":
            with pytest.raises(InputError, match="this study was trained on plain text"):
                export(trainer, study.folder, tmp_path / "out")
            return
        study = short_study
    written = export(trainer, study.folder, tmp_path / "out")
    there = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert sorted(written) == there
    assert all(path.stat().st_size for path in written)
    if trainer in ("swift", "trl"):
        return  # token ids, see test_export_ids.py
    seen = [asked(line) for path in there if path.suffix == ".jsonl" for line in lines_of(path)]
    if trainer not in ("axolotl", "csv", "llamafactory", "parquet", "olmo-core"):
        assert seen
    forbidden = study.forbidden()
    assert not [question for question in seen if any(question.startswith(prompt) for prompt in forbidden)]


@pytest.mark.parametrize("trainer", ["jsonl", "torchtune"])
def test_counted_files_hold_exactly_the_counts(study, short_study, tmp_path, trainer):
    study = short_study if trainer == "torchtune" else study
    (path,) = [path for path in export(trainer, study.folder, tmp_path) if path.suffix == ".jsonl"]
    lines = lines_of(path)
    assert Counter(line["task"] for line in lines) == {"copy": 120, "parity": 30, "sum": 20}
    uses = Counter(asked(line) for line in lines if line["task"] == "copy")
    # 120 of 46: all twice, 28 of them three times.
    assert sorted(Counter(uses.values()).items()) == [(2, 18), (3, 28)]
    names = [line["task"] for line in lines]
    assert sum(a != b for a, b in pairwise(names)) > 40, "it is not shuffled"
    again = export(trainer, study.folder, tmp_path / "again")
    assert path.read_bytes() == next(p for p in again if p.suffix == ".jsonl").read_bytes()
    other = export(trainer, study.folder, tmp_path / "other", seed=1)
    assert path.read_bytes() != next(p for p in other if p.suffix == ".jsonl").read_bytes()


def test_plain_examples_are_the_text_that_the_study_trained(plain_study, tmp_path):
    [path] = export("jsonl", plain_study.folder, tmp_path)
    trained = {
        tuple(row["prompt_ids"] + row["response_ids"]) for t in plain_study.tasks for row in plain_study.table(t.name)
    }
    tokenizer = plain_study.tokenizer
    for line in lines_of(path):
        ids = tokenizer(line["prompt"] + line["completion"])["input_ids"]
        assert (*ids, tokenizer.eos_token_id) in trained


def test_chats_stay_chats_of_which_the_last_reply_is_the_completion(chat_study, tmp_path):
    [path] = export("jsonl", chat_study.folder, tmp_path / "a")
    line = lines_of(path)[0]
    assert [message["role"] for message in line["prompt"]] == ["system", "user", "assistant", "user"]
    assert [message["role"] for message in line["completion"]] == ["assistant"]
    trained = {
        tuple(row["prompt_ids"]): row["response_ids"] for t in chat_study.tasks for row in chat_study.table(t.name)
    }
    ids = chat_study.tokenizer.apply_chat_template(line["prompt"], add_generation_prompt=True, return_dict=False)
    assert tuple(ids) in trained


def test_the_weights_of_a_file_of_another_size_of_the_chosen_mixture(plain_study, tmp_path):
    weights = tmp_path / "mine.csv"
    weights.write_text("copy,1\nreverse,3\n")
    [path] = export("jsonl", plain_study.folder, tmp_path / "a", mixture=str(weights), examples=40)
    assert Counter(line["task"] for line in lines_of(path)) == {"copy": 10, "reverse": 30}
    weights.write_text("copy,1\nstranger,3\n")
    with pytest.raises(InputError, match="names 'stranger', which is not among the tasks: copy, parity, reverse, sum"):
        export("jsonl", plain_study.folder, tmp_path / "b", mixture=str(weights))


def test_the_recommended_mixture_is_exported_unless_the_chosen_one_is_asked_for(plain_study, tmp_path, capsys):
    document = plain_study.document()
    for task in document["tasks"]:
        task["recommended_weight"], task["recommended_count"] = 0.25, 42 if task["name"] == "copy" else 43
    document |= {"recommended": "uniform"}
    document["tasks"][0]["recommended_count"] = 170 - 3 * 43
    here = tmp_path / "study"
    shutil.copytree(plain_study.folder, here)
    (here / "mixture.json").write_text(json.dumps(document))
    for option, copies in (("--recommended", 41), ("--chosen", 120)):
        assert main(["export", "jsonl", str(here), str(tmp_path / option), option]) == 0
        path = capsys.readouterr()
        assert "taskpgm was not shown to be better (--recommended | --chosen)" in path.err
        lines = lines_of(tmp_path / option / "mixture.jsonl")
        assert Counter(line["task"] for line in lines)["copy"] == copies


def test_a_hand_edited_mixture_is_refused_in_place_and_renormalised_as_a_file(plain_study, tmp_path):
    here = tmp_path / "study"
    shutil.copytree(plain_study.folder, here)
    document = plain_study.document()
    document["tasks"][0]["weight"] = 0.9
    (here / "mixture.json").write_text(json.dumps(document))
    with pytest.raises(
        InputError, match=r"the weights sum to 1\.4, not to 1 \(`taskpgm export --mixture FILE` divides"
    ):
        export("jsonl", here, tmp_path / "a")
    [path] = export("jsonl", plain_study.folder, tmp_path / "b", mixture=str(here / "mixture.json"), examples=140)
    assert Counter(line["task"] for line in lines_of(path)) == {"copy": 90, "parity": 30, "sum": 20}


def test_examples_that_are_repeated_too_often_are_named(plain_study, tmp_path, capsys):
    # `copy` has 46 examples and half of the mixture; the others have 48 each.
    assert main(["export", "jsonl", plain_study.folder, str(tmp_path / "a"), "--examples", "368"]) == 0
    assert "repeated" not in capsys.readouterr().err
    assert main(["export", "jsonl", plain_study.folder, str(tmp_path / "b"), "--examples", "736"]) == 0
    said = capsys.readouterr().err
    assert "more often than mixture.constraints.max_epochs (4) allows: copy 8.0 times, parity 4.6 times;" in said


def test_csv_and_parquet(plain_study, tmp_path):
    [path] = export("csv", plain_study.folder, tmp_path)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["name"]: int(row["count"]) for row in rows} == plain_study.counts
    [path] = export("parquet", plain_study.folder, tmp_path)
    table = pq.read_table(path)
    assert Counter(table["task"].to_pylist()) == {"copy": 120, "parity": 30, "sum": 20}
    assert table.column_names == ["prompt", "completion", "task"]


def test_the_datasets_module_loads_and_mixes(study, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path, *files = export("datasets", study.folder, tmp_path / "out")
    loaded = module(path, "mixture_dataset")
    of_task = {asked(line): task for task, file in zip(loaded.TASKS, files, strict=True) for line in lines_of(file)}
    exact = Counter(of_task[asked(row)] for row in loaded.exact(seed=1))
    assert exact == {"copy": 120, "parity": 30, "sum": 20}
    sampled = Counter(of_task[asked(row)] for row in loaded.sampled(seed=1))
    assert sampled.total() == 170
    # 4 standard deviations of a binomial count around what the weights ask for.
    assert abs(sampled["copy"] - 85) < 26
    assert abs(sampled["sum"] - 34) < 21


def test_texts_that_are_dates_stay_texts(plain_study, tmp_path, monkeypatch):
    """Readers of JSON lines make points in time of a column of them."""
    import ray

    from taskpgm_ray.export.examples import read_bundle

    bundle = read_bundle(plain_study.folder)
    days = [f"2021-03-{number % 28 + 1:02d}" for number in range(46)]
    dated = [replace(line, completion=day) for line, day in zip(bundle.tasks[0].lines, days, strict=True)]
    bundle.tasks[0].__dict__["lines"] = dated
    path, *_ = EXPORTERS["datasets"].write(bundle, tmp_path)
    loaded = module(path, "mixture_dataset")
    for rows in (loaded.exact(), loaded.sampled()):
        said = {row["completion"] for row in rows if row["prompt"] in {line.prompt for line in dated}}
        assert said <= set(days)
        assert said
    path, *_ = EXPORTERS["ray"].write(bundle, tmp_path)
    monkeypatch.setattr(ray.data, "from_items", list)
    assert [row["completion"] for row in module(path, "mixture_ray")._read("0000-copy.jsonl")] == days


def test_names_cannot_break_out_of_a_generated_module(plain_study, tmp_path):
    from taskpgm_ray.export.examples import read_bundle
    from taskpgm_ray.export.formats.huggingface import _datasets

    hostile = '"""\nraise SystemExit\n"""\\../../x'
    bundle = read_bundle(plain_study.folder)
    bundle.tasks[0].name = hostile
    path, first, *_ = _datasets(bundle, tmp_path)
    assert first.parent == tmp_path / "data"
    assert next(iter(module(path, "hostile").TASKS)) == hostile


def test_llamafactory_reads_ids_and_adds_nothing(plain_study, tmp_path):
    settings, *_ = export("llamafactory", plain_study.folder, tmp_path)
    assert settings.name == "train.yaml"
    settings = yaml.safe_load(settings.read_text())
    assert settings["tokenized_path"] == str(tmp_path / "tokenised")
    assert (settings["template"], settings["lora_rank"], settings["cutoff_len"]) == ("empty", 4, 64)
    # It is not read, and yet the trainer does not start without.
    assert settings["dataset"]


def test_swift_counts_and_probabilities(plain_study, tmp_path):
    exact, sampled, plugin, *files = export("swift", plain_study.folder, tmp_path)
    exact, sampled = yaml.safe_load(exact.read_text()), yaml.safe_load(sampled.read_text())
    assert exact["dataset"] == [f"{file}#{n}" for file, n in zip(files, (120, 30, 20), strict=True)]
    assert sampled["interleave_prob"] == [0.5, 0.3, 0.2]
    assert sampled["max_steps"] == 43  # 170 examples in batches of 4
    assert exact["external_plugins"] == sampled["external_plugins"] == [str(plugin)]


def test_token_formats_weigh_by_tokens(plain_study, tmp_path):
    path, *files = export("olmo-core", plain_study.folder, tmp_path / "a")
    sources = yaml.safe_load(path.read_text())["sources"]
    assert sum(source["target_ratio"] for source in sources) == pytest.approx(1)
    assert [source["max_repetition_ratio"] for source in sources] == [3.0, 1.0, 1.0]
    train = [row for row in plain_study.table("sum") if row["split"] == "train"]
    wanted = [token for row in train for token in row["prompt_ids"] + row["response_ids"]]
    np.testing.assert_array_equal(np.fromfile(files[2], dtype=np.uint32), wanted)
    path, script, *_ = export("megatron", plain_study.folder, tmp_path / "b")
    option, *parts = path.read_text().split()
    assert option == "--data-path"
    assert [float(p) for p in parts[::2]] == pytest.approx([source["target_ratio"] for source in sources])
    assert all(
        prefix in script.read_text() + "_text_document"
        for prefix in [p.removesuffix("_text_document") for p in parts[1::2]]
    )
    blend = yaml.safe_load(export("nemo", plain_study.folder, tmp_path / "c")[0].read_text())
    assert blend["model"]["data"]["data_prefix"][::2] == pytest.approx([s["target_ratio"] for s in sources])


def test_open_instruct_mixes_by_counts(chat_study, tmp_path):
    path, *files = export("open-instruct", chat_study.folder, tmp_path)
    words = path.read_text().splitlines()[-1].split()
    start = words.index("--dataset_mixer_list") + 1
    assert words[start : start + 6] == [str(files[0]), "120", str(files[1]), "30", str(files[2]), "20"]
    # By default every reply is learned, and what was trained is published.
    start = words.index("--dataset_transform_fn") + 1
    assert words[start : start + 2] == ["last_turn_tulu_tokenize_and_truncate_v1", "sft_tulu_filter_v1"]
    options = dict(pairwise(words))
    assert (options["--push_to_hub"], options["--try_launch_beaker_eval_jobs"]) == ("false", "false")
    assert options["--clip_grad_norm"] == "1.0"


def test_open_instruct_refuses_what_it_would_write_otherwise(tools_study, tmp_path):
    """Its template is given the messages alone."""
    with pytest.raises(InputError, match=r"other tokens than the study did, .*: parity 48 of 48, sum 48 of 48, "):
        export("open-instruct", tools_study.folder, tmp_path)


def test_torchtune_learns_every_reply_and_so_takes_conversations_of_one(short_study, chat_study, tools_study, tmp_path):
    settings, _ = export("torchtune", short_study.folder, tmp_path)
    assert yaml.safe_load(settings.read_text())["dataset"]["_component_"] == "torchtune.datasets.chat_dataset"
    for study in (chat_study, tools_study):
        with pytest.raises(
            InputError, match=r"several or call tools: parity 48 of 48, sum 48 of 48, copy 46 of 46; take"
        ):
            export("torchtune", study.folder, tmp_path)


def test_the_ray_module_counts(plain_study, tmp_path):
    path, *_ = export("ray", plain_study.folder, tmp_path)
    tasks = module(path, "mixture_ray").TASKS
    assert {name: (task["count"], task["examples"]) for name, task in tasks.items()} == {
        "copy": (120, 46),
        "parity": (30, 48),
        "sum": (20, 48),
    }


def test_what_is_no_study_and_unknown_formats(plain_study, tmp_path):
    with pytest.raises(InputError, match=r"no exporter for 'keras'; there are: axolotl, csv, datasets, jsonl"):
        export("keras", plain_study.folder, tmp_path)
    with pytest.raises(InputError, match="is not the folder of a finished study"):
        export("csv", tmp_path / "nothing", tmp_path)


def test_a_study_of_an_earlier_version_says_what_to_do(plain_study, tmp_path):
    here = tmp_path / "study"
    shutil.copytree(plain_study.folder, here)
    document = plain_study.document()
    for task in document["tasks"]:
        del task["unit"]
    (here / "mixture.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="run the study once more with this version"):
        export("jsonl", here, tmp_path / "out")
    assert export("csv", here, tmp_path / "out")


@pytest.mark.parametrize("examples", ["0", "-3"])
def test_no_examples_are_no_export(plain_study, tmp_path, capsys, examples):
    assert (
        main(["export", "jsonl", plain_study.folder, str(tmp_path / "out"), "--examples", examples])
        == InputError.exit_code
    )
    assert f"an export holds at least one example: --examples (`examples`) is {examples}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_address_is_no_folder(plain_study, tmp_path, monkeypatch, capsys):
    """It would be made here, under its own name, and nothing be where it was wished."""
    monkeypatch.chdir(tmp_path)
    for command in (["export", "csv"], ["merge"]):
        assert main([*command, plain_study.folder, "s3://bucket/out"]) == InputError.exit_code
        assert "s3://bucket/out: exports and models are written to a folder on a disk" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(plain_study, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"taken.* cannot be written"):
        export("csv", plain_study.folder, tmp_path / "taken" / "out")


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ("axolotl", ["adapter: qlora", "load_in_4bit: true"]),
        ("llamafactory", ["quantization_bit: 4", "quantization_method: bnb"]),
        ("swift", ["quant_bits: 4", "quant_method: bnb"]),
        ("torchtune", ["quantize_base true"]),
        ("trl", ["load_in_4bit: true", "bnb_4bit_quant_type: nf4", "use_bnb_nested_quant: true"]),
    ],
)
def test_an_adapter_on_4_bits_stays_one(plain_study, short_study, tmp_path, trainer, said):
    study = short_study if trainer == "torchtune" else plain_study

    def written(name, folder):
        return "".join(
            path.read_text() for path in export(trainer, folder, tmp_path / name) if path.suffix in (".yaml", ".json")
        )

    quantised = tmp_path / "study"
    shutil.copytree(study.folder, quantised)
    config = yaml.safe_load((quantised / "config.yaml").read_text())
    config["model"]["quantization"], config["scoring"]["scorer"] = "nf4", "hf"
    (quantised / "config.yaml").write_text(yaml.safe_dump(config))
    whole, four = written("whole", study.folder), written("four", quantised)
    for words in said:
        assert words in four
        assert words not in whole
