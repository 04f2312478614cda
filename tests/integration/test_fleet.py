"""The fleet on real Ray Train lanes: several workers a lane, several lanes, and what becomes of lanes without work."""

import time
from dataclasses import replace

import pytest

from taskpgm_ray.config import LaneConfig
from taskpgm_ray.errors import TrainingError
from taskpgm_ray.finetune.fleet import Fleet
from taskpgm_ray.finetune.full import FullTrainer
from taskpgm_ray.finetune.job_data import load
from taskpgm_ray.finetune.lane import LaneSpec
from taskpgm_ray.finetune.lora import LoraTrainer
from taskpgm_ray.finetune.training import Training, train_job
from taskpgm_ray.finetune.workers import Workers
from taskpgm_ray.storage import Storage

pytestmark = pytest.mark.integration
TASKS = ("copy", "parity", "reverse", "sum")


@pytest.fixture
def fleet(local_ray, tiny_jobs, tmp_path):
    """Starts a fleet; ended with the test."""
    model, job = tiny_jobs
    started = []

    def start(full=False, **lanes):
        config = LaneConfig(**{"cpus": 0.9, "threads": 1, "idle_seconds": 2, **lanes})
        lora = None if full else job("any").recipe.lora
        started.append(Fleet(LaneSpec(model, lora, config, Storage(str(tmp_path / "ray")))))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def alone(tiny_jobs):
    """Trains a job in this process: what every lane must come to."""
    model, job = tiny_jobs
    trainer = LoraTrainer(model.load(), job("any").recipe.lora)
    return lambda job: train_job(Training(trainer, Workers(), LaneConfig(), 0), job, load(job))


def adapter(job):
    return job.unit.files.read_bytes("adapter_model.safetensors")


def wait_until(condition, what):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_workers_learn_what_one_learns(fleet, alone, tiny_jobs, parallel):
    import ray
    from safetensors.torch import load as tensors

    one, two = (tiny_jobs[1](f"{study}-{parallel}", "reverse", batch_size=5) for study in ("one", "two"))
    expected = alone(one)
    # Forward passes of one example a worker: the last of five leaves the second worker without one.
    lanes = fleet(workers=2, parallel=parallel, checkpoint_steps=4, micro_batch_tokens=8)
    manifest = ray.get(lanes.submit(two))
    for loss in ("loss_first", "loss_last", "heldout_loss_before", "heldout_loss_after"):
        assert manifest[loss] == pytest.approx(expected[loss], rel=1e-5), loss
    assert (manifest["steps"], manifest["tokens"]) == (expected["steps"], expected["tokens"])
    ours, theirs = tensors(adapter(two)), tensors(adapter(one))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-3


def test_all_weights_in_shards_learn_what_one_worker_learns(fleet, tiny_jobs):
    import ray
    from safetensors.torch import load_file

    model, job = tiny_jobs
    recipe = {"lora": None, "learning_rate": 2e-3, "batch_size": 5}
    one, two = (job(f"{study}-full", "reverse", **recipe) for study in ("one", "two"))
    alone = Training(FullTrainer(model.load()), Workers(), LaneConfig(), 0)
    expected = train_job(alone, one, load(one))
    lanes = fleet(full=True, workers=2, parallel="fsdp", checkpoint_steps=4, micro_batch_tokens=8)
    manifest = ray.get(lanes.submit(two))
    for loss in ("loss_first", "loss_last", "heldout_loss_before", "heldout_loss_after"):
        assert manifest[loss] == pytest.approx(expected[loss], rel=1e-5), loss
    ours, theirs = (load_file(f"{one.unit.files.path()}/model.safetensors") for one in (two, one))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-3


def test_two_lanes_share_the_queue_and_change_no_bit(fleet, alone, tiny_jobs):
    import ray

    lanes = fleet(max=2)
    jobs = [tiny_jobs[1]("lanes", task) for task in TASKS]
    for job, manifest in zip(jobs, ray.get([lanes.submit(job) for job in jobs]), strict=True):
        assert manifest == job.unit.manifest()
        reference = tiny_jobs[1]("alone", job.name)
        alone(reference)
        assert adapter(job) == adapter(reference)


def test_a_job_that_fails_by_itself_leaves_its_lane_to_the_others(fleet, tiny_jobs):
    import ray

    lanes = fleet()
    bad = tiny_jobs[1]("poisoned", "copy", learning_rate=1e30, warmup_fraction=0.0, steps=20)
    good = tiny_jobs[1]("poisoned", "sum")
    references = [lanes.submit(bad), lanes.submit(good)]
    with pytest.raises(TrainingError, match=r"job 'copy': the loss became (nan|inf); lower"):
        ray.get(references[0])
    assert ray.get(references[1])["steps"] == 10
    assert not bad.unit.done()


@pytest.mark.faults  # in virtual time, too: tests/finetune/test_fleet_histories.py
def test_a_job_that_kills_every_lane_is_given_up(fleet, tiny_jobs, tmp_path):
    """An error that is none of ours ends the lane; the job may not go on costing lanes for ever."""
    import ray

    lanes = fleet(max_failures=1)
    job = tiny_jobs[1]("deadly", "sum")
    # A batch of no examples is an error in the loop itself, which no configuration allows.
    deadly = replace(job, recipe=replace(job.recipe, batch_size=0))
    with pytest.raises(TrainingError, match=r"job 'sum' ended 2 lanes; the last one by: .*"):
        ray.get(lanes.submit(deadly))


@pytest.mark.faults  # histories of every kind are simulated in tests/finetune/test_fleet_histories.py
def test_lanes_that_wait_for_room_are_cancelled_when_no_job_is_left(fleet, tiny_jobs):
    """Four jobs, room for two lanes, four wanted: the surplus gives its claim on the cluster back."""
    import ray

    lanes = fleet(max=4, idle_seconds=1)
    references = [lanes.submit(tiny_jobs[1]("surplus", task)) for task in TASKS]
    wait_until(lambda: lanes.status().pending == 4, "the lanes were not asked for")
    ray.get(references)
    wait_until(lambda: lanes.status().lanes + lanes.status().pending == 0, "lanes are left")
    wait_until(lambda: ray.available_resources().get("CPU", 0.0) == 2.0, "CPUs are still held")


def test_the_minimum_of_lanes_stays(fleet, tiny_jobs):
    import ray

    lanes = fleet(min=1, max=2, idle_seconds=0.5)
    ray.get([lanes.submit(tiny_jobs[1]("minimum", task)) for task in TASKS])
    wait_until(lambda: (lanes.status().lanes, lanes.status().pending) == (1, 0), "not one lane is left")
    time.sleep(2)
    assert lanes.status().lanes == 1
