"""What a job's unit is named by."""

from types import SimpleNamespace

import pytest

from taskpgm_ray.config import LoraSection
from taskpgm_ray.finetune.job import Recipe, make_job
from taskpgm_ray.storage import Storage


@pytest.fixture
def made(tmp_path):
    tasks = [
        SimpleNamespace(name=name, facts=SimpleNamespace(train_content=f"train {name}", probe_content=f"probe {name}"))
        for name in "abcd"
    ]
    recipe = Recipe(
        lora=LoraSection(), steps=4, tokens=None, batch_size=2, sort_window=1, learning_rate=1e-3, warmup_fraction=0.0,
        weight_decay=0.0, max_grad_norm=1.0, seed=0, init_seed=0,
    )  # fmt: skip

    def make(mixture, pool=tasks):
        model = SimpleNamespace(fingerprint="model")
        return make_job("m", "mixtures", mixture, pool, recipe, model, Storage(str(tmp_path)))

    return SimpleNamespace(make=make, tasks=tasks)


def test_mixtures_of_one_pool_number_their_tasks_alike(made):
    """So that fine-tunes with one seed are pairs, whichever tasks a mixture leaves out."""
    assert made.make(dict.fromkeys("abcd", 0.25)).orders is None
    job = made.make({"b": 0.5, "d": 0.5})
    assert [task.name for task in job.tasks] == ["b", "d"]
    assert job.orders == (1, 3)
    assert made.make({"c": 1.0}).orders is None


def test_the_order_of_examples_is_part_of_the_name(made):
    """The same two tasks in a smaller pool are taken in another order."""
    within = made.make({"b": 0.5, "d": 0.5})
    alone = made.make({"b": 0.5, "d": 0.5}, [made.tasks[1], made.tasks[3]])
    assert alone.orders is None
    assert within.unit.path != alone.unit.path
    first = made.make({"a": 0.5, "b": 0.5})
    assert first.orders is None
    assert first.unit.path == made.make({"a": 0.5, "b": 0.5}, made.tasks[:2]).unit.path
