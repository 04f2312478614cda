"""``taskpgm tasks``: counts of every task, and examples as the model sees them, without Ray."""

import json
import subprocess
import sys

import pytest

from taskpgm_ray.cli import main
from taskpgm_ray.config import load_config
from taskpgm_ray.tasks.sources import task_sources
from taskpgm_ray.tasks.split import split_task

KEYS = ["name", "source", "layout", "size", "bad", "repeats", "train", "probe", "heldout", "examples"]


@pytest.fixture
def study(tiny_llama, tiny_pool, tmp_path):
    rows = [{"question": f"q{i % 38}", "answer": "" if i == 5 else f"[red]{i}[/red]"} for i in range(40)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "study.yaml"
    file.write_text(
        json.dumps(
            {
                "study": "s",
                "storage": str(tmp_path / "runs"),
                "model": {"path": str(tiny_llama), "dtype": "float32", "max_length": 64},
                "pool": {
                    "tasks": [f"files:{tmp_path}/own.jsonl", f"jsonl:{tiny_pool}/sum.jsonl"],
                    "probes_per_task": 6,
                    "heldout_per_task": 4,
                },
                "finetune": {"steps": 3},
            }
        )
    )
    return file


def test_json(study, capsys, tmp_path, tiny_llama):
    from transformers import AutoTokenizer

    assert main(["tasks", "--config", str(study), "--examples", "2", "--json"]) == 0
    own, sums = json.loads(capsys.readouterr().out)
    assert list(own) == KEYS
    assert (own["name"], own["source"], own["layout"]) == ("own", f"{tmp_path}/own.jsonl", "question/answer")
    assert [own[key] for key in KEYS[3:9]] == [40, 1, 0, 29, 6, 4]
    assert [sums[key] for key in KEYS[3:9]] == [60, 0, 0, 50, 6, 4]
    first, second = own["examples"]
    assert (first["prompt"], first["response"], second["prompt"]) == ("q0", "[red]0[/red]", "q1")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    assert first["response_ids"][-1] == tokenizer.eos_token_id
    assert first["text"] == tokenizer.decode(first["prompt_ids"] + first["response_ids"]) == "q0 [red]0[/red]<eos>"


def test_what_another_task_asks_is_not_counted_as_trained(study, capsys, tmp_path, tiny_llama):
    from transformers import AutoTokenizer

    config = json.loads(study.read_text())
    own = tmp_path / "own.jsonl"
    copies = [json.dumps({"question": f"\n Q{i} ", "answer": "yes"}) + "\n" for i in range(38)]
    (tmp_path / "copies.jsonl").write_text("".join(copies))
    config["pool"]["tasks"] = [f"files:{own}", f"files:{tmp_path}/copies.jsonl"]
    study.write_text(json.dumps(config))
    assert main(["tasks", "--config", str(study), "--json"]) == 0
    shown = {task["name"]: task["train"] for task in json.loads(capsys.readouterr().out)}
    loaded = load_config(study)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    pool = {source.name: split_task(source, loaded, tokenizer) for source in task_sources(loaded.pool)}
    prompts = {
        (name, split): [row["prompt"].strip().lower() for row in made.of(split)]
        for name, made in pool.items()
        for split in ("train", "probe", "heldout")
    }
    asked = set().union(*(found for (_, split), found in prompts.items() if split != "train"))
    assert shown == {name: sum(p not in asked for p in prompts[name, "train"]) for name in ("own", "copies")}
    assert shown["copies"] < len(prompts["copies", "train"]) == 28
    assert main(["tasks", "--config", str(study)]) == 0
    assert f"copies: {28 - shown['copies']} examples not trained" in capsys.readouterr().out


def test_the_table_and_the_examples(study, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["tasks", "--config", str(study)]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.strip().startswith("own "))
    assert line.split() == ["own", f"{tmp_path}/own.jsonl", "question/answer", "40", "1", "0", "29", "6", "4"]
    assert "q0 [red]0[/red]<eos>" in out
    assert "note: own: between prompt and response: a space (39)" in out
    assert f"bad rows, which are skipped: {tmp_path}/own.jsonl, line 6: the response is empty" in out
    assert main(["tasks", "--config", str(study), "--examples", "0"]) == 0
    assert "<eos>" not in capsys.readouterr().out


def test_columns_that_are_not_read_are_told(study, capsys, tmp_path):
    rows = [{"question": f"q{i}", "answer": "a", "passage": "p"} for i in range(40)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["tasks", "--config", str(study)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "note: own: columns that the layout question/answer does not read: passage (40 rows); name those that" in out


def test_ray_is_not_needed(study):
    code = (
        "import sys\nfrom taskpgm_ray.cli import main\nassert main(sys.argv[1:]) == 0\n"
        "assert not {'ray.data', 'vllm', 'lm_eval'} & set(sys.modules)\n"
        "import ray\nassert not ray.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code, "tasks", "--config", str(study)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_shown_is_what_is_prepared(study, capsys):
    from taskpgm_ray.models import resolve
    from taskpgm_ray.storage import Storage
    from taskpgm_ray.tasks.prepare import Task, prepare_one, task_units

    assert main(["tasks", "--config", str(study), "--examples", "100", "--json"]) == 0
    own, _ = json.loads(capsys.readouterr().out)
    config = load_config(study)
    storage = Storage(config.storage)
    model = resolve(config.model, storage)
    (source, unit), _ = task_units(config, model, storage / "s")
    prepare_one(source, unit, config, model)
    task = Task(source.name, unit)
    prepared = [pair for split in ("train", "probe", "heldout") for pair in task.examples(split)]
    shown = [(one["prompt_ids"], one["response_ids"]) for one in own["examples"]]
    assert sorted(shown) == sorted(prepared)
    assert (task.facts.train, task.facts.probes, task.facts.bad, task.facts.size) == (29, 6, 1, 40)
