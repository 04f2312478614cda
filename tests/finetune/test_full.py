"""All weights trained: from the same start each time, saved as a model, resumed to the bit."""

import json
from dataclasses import replace
from itertools import cycle

import pytest

from taskpgm_ray.config import LaneConfig
from taskpgm_ray.finetune.checkpoint import FILE
from taskpgm_ray.finetune.full import FullTrainer
from taskpgm_ray.finetune.job_data import load
from taskpgm_ray.finetune.training import Training, train_job
from taskpgm_ray.finetune.workers import Workers

RECIPE = {"lora": None, "learning_rate": 2e-3}


class Killed(BaseException):
    """What a lane's end is to the code that runs in it."""


@pytest.fixture(scope="module")
def made(tiny_jobs):
    """(trainer, function that makes a job which trains all weights)."""
    model, job = tiny_jobs
    return FullTrainer(model.load()), lambda study, *rest, **recipe: job(study, *rest, **{**RECIPE, **recipe})


@pytest.fixture
def train(made):
    def run(job, report=lambda row: None, **config):
        return train_job(Training(made[0], Workers(), LaneConfig(**config), 0, report), job, load(job))

    return run


def tensors(job):
    from safetensors.torch import load_file

    return load_file(f"{job.unit.files.path()}/model.safetensors")


def same(one, two):
    import torch

    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_it_learns_and_what_is_saved_is_a_model(made, train):
    import torch
    from transformers import AutoModelForCausalLM

    job = made[1]("saved")
    manifest = train(job)
    assert manifest["heldout_loss_after"] < 0.9 * manifest["heldout_loss_before"]
    again = AutoModelForCausalLM.from_pretrained(job.unit.files.path(), dtype=torch.float32)
    trained = made[0].model
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(again(ids).logits, trained(ids).logits, atol=1e-5, rtol=0)
    assert json.loads(job.unit.files.read_bytes("config.json"))["dtype"] == "float32"
    assert not [name for name in job.unit.files.names() if name.startswith("checkpoint")]


def test_every_job_starts_from_the_base_model(made, train):
    first, other, again = made[1]("first"), made[1]("other", "copy"), made[1]("again")
    for job in (first, other, again):
        train(job)
    assert same(tensors(first), tensors(again))
    assert not same(tensors(first), tensors(other))


def test_no_unit_is_shared_with_an_adapter(tiny_jobs, made):
    assert tiny_jobs[1]("shared", learning_rate=2e-3).unit.path != made[1]("shared").unit.path


@pytest.mark.parametrize("most", [2**31, 10_000])
def test_a_killed_job_goes_on_to_the_same_bits(made, train, tiny_jobs, monkeypatch, most):
    monkeypatch.setattr("taskpgm_ray.finetune.checkpoint.MOST_BYTES", most)
    undisturbed, job = made[1](f"undisturbed-{most}", weight_decay=0.1), made[1](f"killed-{most}", weight_decay=0.1)
    train(undisturbed)

    def kill_at(step):
        def report(row):
            if row["step"] == step:
                raise Killed

        return report

    for step in (5, 8):
        with pytest.raises(Killed):
            train(job, kill_at(step), checkpoint_steps=3)
    parts = [name for name in job.unit.files.names() if name.startswith("checkpoint")]
    assert FILE in parts
    assert (len(parts) > 10) == (most < 2**31)
    train(job, checkpoint_steps=3)
    assert same(tensors(job), tensors(undisturbed))
    assert not [name for name in job.unit.files.names() if name.startswith("checkpoint")]


def test_steps_that_bfloat16_could_not_hold_are_not_lost(tiny_jobs):
    """One step of full fine-tuning changes a weight by less than bfloat16 resolves: ten of them must add up."""
    import torch

    model, job = tiny_jobs
    one = job("narrow", **RECIPE)
    recipe = replace(one.recipe, learning_rate=1e-4, warmup_fraction=0.0, steps=10)
    narrow = model.load().to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in narrow.state_dict().items()}
    trainer = FullTrainer(narrow)
    assert trainer.mixed_precision
    examples = cycle(load(one).pools[0])
    batches = ([next(examples) for _ in range(4)] for _ in iter(int, 1))
    outcome = trainer.run(batches, recipe, 0)
    assert outcome["loss_last"] < outcome["loss_first"]
    assert {parameter.dtype for parameter in trainer.parameters.values()} == {torch.float32}
    trained = dict(trainer._whole())
    assert {tensor.dtype for tensor in trained.values()} == {torch.bfloat16}
    moved = sum((trained[name] != before[name]).sum().item() for name in trained)
    assert moved > 0.2 * sum(tensor.numel() for tensor in trained.values())


def test_what_is_saved_in_bfloat16_is_named_so(tiny_jobs, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    trainer = FullTrainer(tiny_jobs[0].load().to(torch.bfloat16))
    trainer.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_bytes())["dtype"] == "bfloat16"
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    base = tiny_jobs[0].load().to(torch.bfloat16)
    assert same(again.state_dict(), base.state_dict())
