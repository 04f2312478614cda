"""A few items of the report split and what is written after them."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.evaluation.items import Item
from taskpgm_ray.judge import samples as module
from taskpgm_ray.judge.samples import _drawn, sample_answers
from taskpgm_ray.search.candidates import Candidate
from taskpgm_ray.storage import Storage, Unit

ITEMS = [Item("bbh", f"t{k % 3}", f"question {k}", f"answer {k}") for k in range(9)] + [
    Item("mmlu", "anatomy", f"which {k}", "B", ("no", "yes", "x", "y")) for k in range(2)
]


def test_items_are_of_different_tasks_and_a_larger_draw_holds_a_smaller_one():
    three = _drawn(ITEMS, 3, 0)
    assert {item.task for item in three if item.benchmark == "bbh"} == {"t0", "t1", "t2"}
    assert sum(item.benchmark == "mmlu" for item in three) == 2
    for more in range(4, 9):
        assert [item for item in _drawn(ITEMS, more, 0) if item in three] == three
    assert _drawn(ITEMS, 0, 0) == []
    assert any(_drawn(ITEMS, 3, seed) != three for seed in range(1, 5))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A planner, a split and an evaluator that answers with the adapter's name; every call is kept."""
    storage = Storage(str(tmp_path))
    config = load_config({"study": "s", "pool": {"tasks": ["jsonl:a"]}, "finetune": {"steps": 1}})
    planner = SimpleNamespace(
        config=config, storage=storage, model=SimpleNamespace(fingerprint="f"),
        job=lambda candidate, seed: SimpleNamespace(unit=Unit(storage, f"mixtures/{candidate.name}-seed{seed}")),
    )  # fmt: skip
    report = SimpleNamespace(path="evaluation/report-1", items=lambda: ITEMS)
    calls = []

    def answers(adapter, split, ids, most_tokens):
        calls.append(adapter and adapter.path)
        return [(f"prompt of {one}", f"by {adapter.path if adapter else 'base'}") for one in ids]

    @contextmanager
    def missing(run, name, works):
        yield SimpleNamespace(finished=lambda text: None), [work for work in works if not work.unit.done()]

    def collect(stage, references, on_done, *rest, **more):
        for reference, work in references.items():
            on_done(work, reference.value)

    class Reference:
        def __init__(self, value):
            self.value = value

    monkeypatch.setattr(module, "missing", missing)
    monkeypatch.setattr(module, "collect", collect)
    run = SimpleNamespace(evaluator=SimpleNamespace(answers=lambda *given: Reference(answers(*given))))
    return planner, report, run, calls


def candidate(name, kind="baseline"):
    return Candidate(name, kind, 1.0 if kind == "balance" else None, np.full(1, 1.0), name)


def test_base_uniform_and_winner_are_asked_once_and_read_afterwards(world):
    planner, report, run, calls = world
    chosen, methods = candidate("jsd|tau-1", "balance"), {"uniform": candidate("uniform")}
    assert sample_answers(chosen, methods, planner, report, run, only_finished=True) == []
    found = sample_answers(chosen, methods, planner, report, run)
    assert calls == [None, "mixtures/uniform-seed0", "mixtures/jsd|tau-1-seed0"]
    assert [list(one.answers) for one in found] == [["base model", "uniform", "jsd|tau-1"]] * 5
    assert found[0].answers["uniform"] == "by mixtures/uniform-seed0"
    assert found[0].question.startswith("prompt of ")
    assert {one.target for one in found if one.benchmark == "mmlu"} == {"B. yes"}
    assert sample_answers(chosen, methods, planner, report, run, only_finished=True) == found
    assert len(calls) == 3
    # Without uniform there are two systems.
    assert list(sample_answers(chosen, {}, planner, report, run)[0].answers) == ["base model", "jsd|tau-1"]
