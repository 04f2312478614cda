"""`taskpgm init`: a config that is valid as it stands and follows from data, model and machine."""

import json
import shutil
from dataclasses import replace

import pytest

from taskpgm_ray.cli import main
from taskpgm_ray.config import load_config
from taskpgm_ray.errors import InputError
from taskpgm_ray.first_config import check, first_config, look, study_name
from taskpgm_ray.tasks.sources import source_of
from taskpgm_ray.validate import validate


def pool(folder, sizes, words=6):
    folder.mkdir()
    for name, size in sizes.items():
        rows = [{"prompt": f"{name} {i} " + "word " * words, "response": f"{i}"} for i in range(size)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_what_is_written_is_valid_and_runs_the_checks(tiny_llama, tmp_path, capsys, monkeypatch):
    data = pool(tmp_path / "my data", {"small": 50, "large": 500})
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(data), "--model", str(tiny_llama), "--out", "mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert "mine.yaml: 2 tasks, 550 examples" in said
    assert "next: taskpgm validate --config mine.yaml" in said
    config = load_config("mine.yaml")
    assert config.study == "my-data"
    # A tenth and a fifth of the smallest task.
    assert (config.pool.probes_per_task, config.pool.heldout_per_task) == (5, 10)
    assert config.mixture.examples == 550
    assert config.evaluation.own_tasks
    assert any("tokens: the same for training" in line for line in validate(config))
    # Nothing is written over.
    assert main(["init", str(data), "--model", str(tiny_llama), "--out", "mine.yaml"]) == 3
    assert "--force to write over it" in capsys.readouterr().err
    assert main(["init", str(data), "--model", str(tiny_llama), "--out", "mine.yaml", "--force", "--study", "x"]) == 0
    assert load_config("mine.yaml").study == "x"


def test_lengths_decide_how_long_examples_may_be(tiny_llama, tmp_path):
    short = look([str(pool(tmp_path / "a", {"x": 60, "y": 60}))], str(tiny_llama))
    long = look([str(pool(tmp_path / "b", {"x": 60, "y": 60}, words=120))], str(tiny_llama))
    lengths = [check(first_config("s", ["a"], str(tiny_llama), found)).model.max_length for found in (short, long)]
    assert lengths[0] == 64 * -(-int(short.lengths.max()) // 64)
    assert lengths[1] == min(64 * -(-int(long.lengths.max()) // 64), long.limit)
    assert lengths[1] > lengths[0]


@pytest.fixture
def chatty_llama(tiny_llama, tmp_path):
    folder = tmp_path / "chatty"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return folder


def test_chats_are_written_by_the_chat_template(chatty_llama, tiny_llama, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "chats"
    data.mkdir()
    for name in ("a", "b"):
        talks = [[("system", f"Be {name}."), ("user", f"q{i}"), ("assistant", "r")] for i in range(60)]
        rows = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["init", str(data), "--model", str(chatty_llama), "--out", "mine.yaml"]) == 0
    config = load_config("mine.yaml")
    assert config.model.prompt_format == "chat"
    assert f"# chat: a system message or several turns, first in {data}/a.jsonl, line 1.\nmodel:" in (
        (tmp_path / "mine.yaml").read_text()
    )
    assert any("tokens: the same for training" in line for line in validate(config))
    assert main(["init", str(data), "--model", str(tiny_llama), "--out", "other.yaml"]) == 4
    assert f"a.jsonl, line 1: a system message or a conversation of several turns, and {tiny_llama} has no chat" in (
        " ".join(capsys.readouterr().err.split())
    )


@pytest.mark.parametrize(
    ("gpus", "cpus", "lanes", "engines"),
    [
        (0, 1, {"max": 1, "gpus": 0, "cpus": 0.9, "threads": 1}, {"max": 1, "cpus": 0.9}),
        (0, 2, {"max": 2, "gpus": 0, "cpus": 0.25, "threads": 1}, {"max": 2, "cpus": 0.25, "threads": 1}),
        (0, 16, {"max": 2, "cpus": 3.75, "threads": 8}, {"max": 2, "cpus": 3.75}),
        (1, 16, {"max": 1, "gpus": 0.5}, {"max": 1, "gpus": 0.5, "gpu_memory_utilization": 0.45}),
        (8, 64, {"max": 6, "gpus": 1}, {"max": 2, "gpus": 1}),
    ],
)
def test_the_machine_decides_the_resources(tiny_llama, tmp_path, gpus, cpus, lanes, engines):
    found = replace(look([str(pool(tmp_path / "a", {"x": 60, "y": 900}))], str(tiny_llama)), gpus=gpus, cpus=cpus)
    config = check(first_config("s", ["a"], str(tiny_llama), found))
    assert {name: getattr(config.finetune.lanes, name) for name in lanes} == lanes
    assert {name: getattr(config.scoring.engines, name) for name in engines} == engines
    assert config.finetune.steps == (100 if gpus else 48)
    wide = check(first_config("s", ["a"], str(tiny_llama), replace(found, width=4096)))
    assert (config.finetune.learning_rate, wide.finetune.learning_rate) == (1e-3, 2e-4)
    assert (config.scoring.scorer, wide.scoring.scorer) == ("vllm" if gpus else "hf", "vllm")
    assert gpus or (wide.finetune.lanes.max, wide.finetune.lanes.threads) == (1, cpus)


def test_sources_with_a_scheme_stay_and_names_are_usable():
    assert source_of("hf:openai/gsm8k") == "hf:openai/gsm8k"
    assert source_of("my/data") == "files:my/data"
    assert study_name(["hf:openai/gsm8k"]) == "gsm8k"
    assert study_name(["/data/Häuser und mehr/"]) == "H-user-und-mehr"
    assert study_name(["*.jsonl"]) == "study"


def test_too_little_data_is_said(tiny_llama, tmp_path):
    found = look([str(pool(tmp_path / "a", {"x": 5, "y": 60}))], str(tiny_llama))
    with pytest.raises(InputError, match="x has 5 examples: too few"):
        first_config("s", ["a"], str(tiny_llama), found)
