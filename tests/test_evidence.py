"""The protocol's configs differ in their question only, and records become the tables and the figure of the page."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from taskpgm_ray.config import load_config

ROOT = Path(__file__).resolve().parents[1]
POOLS = ("redundant", "natural", "unlike", "harmful", "target")


def job(name):
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "jobs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def comparison(system, scope, difference, seeds=10):
    return {
        "system": system,
        "scope": scope,
        "metric": "gold_logprob",
        "difference": difference,
        "low": difference - 0.04,
        "high": difference + 0.06,
        "p": 0.01,
        "p_holm": 0.02,
        "seeds": seeds,
        "items": 400,
        "seed_error": 0.01,
        "item_error": 0.01,
    }


@pytest.fixture
def records(tmp_path):
    made = {
        "study": "redundant",
        "command": "python jobs/real_study.py --config jobs/studies/redundant.yaml mixture.constraints.floor=0",
        "hours": 1.25,
        "tasks": ["news.1", "news.2", "sums", "shuffled_lies"],
        "metric": "gold_logprob",
        "chosen": "jsd-tau-0.52",
        "verdict": "",
        "weights": {
            # The winner is the maximum of the curve: no trial had it.
            "uniform": [0.25] * 4,
            "given-redundant-oracle": [0.25, 0.25, 0.5, 0.0],
        },
        "mixture": [0.1, 0.1, 0.6, 0.2],
        "against_uniform": [
            *(comparison("jsd-tau-0.52", scope, d) for scope, d in (("all", 0.07), ("bbh", -0.3), ("mmlu", 0.001))),
            comparison("given-redundant-oracle", "all", 0.19, 5),
            comparison("jsd-tau-0.52", "pool", 9.9),
        ],
        "by_seed": [
            {"system": "uniform", "seed": seed, "gold_logprob": value, "accuracy": 0.5}
            for seed, value in enumerate((-0.5, -0.6, -0.7))
        ],
    }
    paths = []
    for name in ("first", "second"):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(made))
    return paths


def test_pools_share_everything_but_their_question():
    configs = {name: load_config(ROOT / "jobs" / "studies" / f"{name}.yaml") for name in POOLS}
    first = configs["redundant"]
    for config in configs.values():
        for same in ("model", "finetune", "scoring", "affinity", "mixture", "seed"):
            assert getattr(config, same) == getattr(first, same)
        assert config.evaluation.report_seeds == 10
        assert config.search.affinities == ("jsd", "pmi")
        assert config.mixture.constraints.floor == 0.25
        assert {"uniform", "proportional", "equal_loss", "random", "text", "paper"} <= set(config.search.baselines)
    shuffled = {f"shuffled_{name}" for name in job("studies/shuffled").HARMFUL}
    assert {name.removeprefix("pool/") for name in configs["harmful"].evaluation.weights} - {"mmlu", "bbh"} == shuffled
    assert configs["target"].evaluation.weights == {}
    assert not configs["target"].evaluation.mmlu


def test_shuffled_answers_are_the_same_answers_to_other_prompts(tmp_path):
    made = job("studies/shuffled")
    rows = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(50)]
    for name in made.HARMFUL:
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        made.main(str(tmp_path), str(tmp_path / "out"))
        found = [json.loads(line) for line in (tmp_path / "out" / "shuffled_mnli.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in found] == [row["prompt"] for row in rows]
    assert sorted(row["response"] for row in found) == sorted(row["response"] for row in rows)
    assert sum(row["response"] == f"r{i}" for i, row in enumerate(found)) < 10


def test_the_tables_and_the_figure(records, tmp_path, monkeypatch, capsys):
    page, figure = tmp_path / "page.md", tmp_path / "plot.svg"
    made = job("evidence")
    page.write_text(f"By hand.\n\n{made.BEGIN}\nold\n{made.END}\n\nMore by hand.\n")
    arguments = [*map(str, records), "--out", str(page), "--figure", str(figure)]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["evidence.py", *arguments])
        made.main()
    text = page.read_text()
    assert text.startswith("By hand.\n")
    assert text.endswith("\n\nMore by hand.\n")
    assert "old" not in text
    name = "redundant mixture.constraints.floor=0"
    assert text.count(f"| {name} | oracle | +0.190 | +0.150 to +0.250 | 0.020 | 5 | – | – |") == 2
    chosen = f"| {name} | **jsd** | +0.070 | +0.030 to +0.130 | 0.020 | 10 | -0.300 ± 0.050 | +0.001 ± 0.050 |"
    assert text.count(chosen) == 2
    assert text.index("oracle | +0.190") < text.index("**jsd**")
    assert f"| {name} | 4 | 0.100 (3 seeds) | 1.2 |" in text
    # Both are of one study, whose fine-tunes they share.
    assert "\n1.2 hours in all" in text
    assert f"| {name} | news (2) | 50 % | 50 % | jsd 20 % |" in text
    assert f"| {name} | shuffled answers (1) | 25 % | 0 % | jsd 20 % |" in text
    assert "9.9" not in text
    assert "<svg" in figure.read_text()
    monkeypatch.setattr(sys, "argv", ["evidence.py", str(records[0])])
    made.main()
    assert "**jsd**" in capsys.readouterr().out
