"""One job from data to adapter, without Ray: resumed, saved on the way, retried with less memory, never repeated."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from taskpgm_ray.config import LaneConfig
from taskpgm_ray.errors import MemoryLimitError, StorageError, TrainingError
from taskpgm_ray.finetune.checkpoint import (
    FILE,
    Checkpoint,
    TrainState,
    drop_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from taskpgm_ray.finetune.job_data import Loader, load
from taskpgm_ray.finetune.lora import LoraTrainer
from taskpgm_ray.finetune.training import Stopped, Training, _Keeper, train_job
from taskpgm_ray.finetune.workers import Workers
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import Task


class Killed(BaseException):
    """What a lane's end is to the code that runs in it."""


@pytest.fixture(scope="module")
def made(tiny_jobs):
    """(trainer, function that makes a job of ten steps on the task `sum` in a study of the given name)."""
    model, job = tiny_jobs
    return LoraTrainer(model.load(), job("any").recipe.lora), job


@pytest.fixture
def lane(made):
    def build(report=lambda row: None, preempted=lambda: False, ending=lambda: False, confirm=lambda: None, **config):
        return Training(made[0], Workers(), LaneConfig(**config), 0, report, preempted, ending, confirm)

    return build


def adapter(job):
    return job.unit.files.read_bytes("adapter_model.safetensors")


def steps(job):
    return [json.loads(line)["step"] for line in job.unit.files.read_bytes("metrics.jsonl").splitlines()]


def kill_at(step):
    def report(row):
        if row["step"] == step:
            raise Killed

    return report


@pytest.fixture(scope="module")
def undisturbed(made):
    job = made[1]("undisturbed")
    manifest = train_job(Training(made[0], Workers(), LaneConfig(), 0), job, load(job))
    return job, manifest


def test_the_manifest_says_what_it_cost(undisturbed):
    job, manifest = undisturbed
    assert manifest == job.unit.manifest()
    assert manifest["weights"] == {"sum": 1.0}
    assert manifest["steps"] == 10
    assert manifest["gpu_seconds"] == 0.0
    assert manifest["wall_seconds"] >= manifest["seconds"] > 0
    assert manifest["heldout_loss_after"] < manifest["heldout_loss_before"]
    assert steps(job) == list(range(1, 11))
    assert FILE not in job.unit.files.names()


def test_a_finished_job_is_not_trained_again(undisturbed, lane):
    job, manifest = undisturbed
    assert train_job(lane(kill_at(1)), job, load(job)) == manifest


def test_a_checkpoint_that_a_kill_left_beside_a_manifest_is_removed(undisturbed, lane):
    job, manifest = undisturbed
    job.unit.files.write_bytes(FILE, b"of the moment before the end")
    assert train_job(lane(kill_at(1)), job, load(job)) == manifest
    assert FILE not in job.unit.files.names()


def test_a_killed_job_goes_on_from_its_last_checkpoint(made, lane, undisturbed):
    job = made[1]("killed")
    for step in (5, 8):
        with pytest.raises(Killed):
            train_job(lane(kill_at(step), checkpoint_steps=3), job, load(job))
        assert not job.unit.done()
    train_job(lane(checkpoint_steps=3), job, load(job))
    assert adapter(job) == adapter(undisturbed[0])
    # Saved at 3, killed at 5; saved at 6, killed at 8: less than an interval is computed twice each time.
    assert steps(job) == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 7, 8, 9, 10]
    assert FILE not in job.unit.files.names()


def test_a_fine_tune_that_was_cut_goes_on_to_what_the_whole_one_is(made, lane, undisturbed):
    whole = made[1]("cut")
    first, second = whole.cut(0.3), whole.cut(0.5)
    early = train_job(lane(), first, load(first))
    assert (early["steps"], early["heldout_loss_before"]) == (3, undisturbed[1]["heldout_loss_before"])
    assert first.unit.done()
    assert not whole.unit.done()
    # The state to go on from is the whole fine-tune's, and stays until that ends.
    assert load_checkpoint(whole.unit).state.step == 3
    assert train_job(lane(kill_at(1)), first, load(first)) == early
    train_job(lane(), second, load(second))
    train_job(lane(), whole, load(whole))
    assert steps(whole) == list(range(1, 11))
    assert adapter(whole) == adapter(undisturbed[0])
    assert len({adapter(job) for job in (first, second, whole)}) == 3
    assert FILE not in whole.unit.files.names()


def test_what_is_kept_on_the_way_is_what_a_cut_fine_tune_makes(made, lane, undisturbed):
    job = made[1]("kept")
    kept = replace(job, parts=(job.part(0.5), job.part(0.3)))
    for step in (4, 6):
        with pytest.raises(Killed):
            train_job(lane(kill_at(step), checkpoint_steps=2), kept, load(kept))
    train_job(lane(), kept, load(kept))
    assert adapter(kept) == adapter(undisturbed[0])
    for share in (0.3, 0.5):
        cut = made[1](f"alone-{share:g}").cut(share)
        manifest = train_job(lane(), cut, load(cut))
        assert adapter(kept.cut(share)) == adapter(cut)
        assert kept.part(share).unit.manifest()["steps"] == manifest["steps"] == 10 * share
    # Nothing is kept of what is not trained any more.
    late = replace(kept, parts=(kept.part(0.8),))
    train_job(lane(), late, load(late))
    assert not kept.part(0.8).unit.done()


def test_what_a_checkpoint_is_beyond_is_not_kept_under_its_name(made, lane, undisturbed):
    job = made[1]("late")
    with pytest.raises(Killed):
        train_job(lane(kill_at(7), checkpoint_steps=6), job, load(job))
    asked = replace(job, parts=(job.part(0.5), job.part(0.6), job.part(0.8)))
    train_job(lane(), asked, load(asked))
    assert adapter(asked) == adapter(undisturbed[0])
    assert [part.unit.done() for part in asked.parts] == [False, False, True]
    alone = made[1]("late-alone").cut(0.8)
    train_job(lane(), alone, load(alone))
    assert adapter(asked.cut(0.8)) == adapter(alone)


def test_a_fine_tune_that_went_farther_is_no_start_of_a_shorter_one(made, lane):
    far, near, alone = made[1]("far").cut(0.5), made[1]("far").cut(0.3), made[1]("near-alone").cut(0.3)
    for job in (far, near, alone):
        train_job(lane(), job, load(job))
    assert near.unit.manifest()["steps"] == 3
    assert adapter(near) == adapter(alone) != adapter(far)


def test_a_kill_at_the_end_of_a_cut_fine_tune_costs_no_step(made, lane, monkeypatch):
    job = made[1]("cut-killed").cut(0.4)

    def killed(self, folder):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LoraTrainer, "save", killed)
        with pytest.raises(Killed):
            train_job(lane(), job, load(job))
    train_job(lane(), job, load(job))
    assert steps(job.cut(1)) == [1, 2, 3, 4]


def test_seconds_make_checkpoints_as_well(made, lane):
    job = made[1]("seconds")
    with pytest.raises(Killed):
        train_job(lane(kill_at(4), checkpoint_seconds=1e-6), job, load(job))
    # From the first step on; and from the one after it.
    assert load_checkpoint(job.unit).state.step == 2


def test_a_notice_that_the_node_goes_makes_one_checkpoint(made, lane, monkeypatch):
    monkeypatch.setattr("taskpgm_ray.finetune.training.LOOK_SECONDS", 0.0)
    job = made[1]("noticed")
    asked = []

    def preempted():
        asked.append(1)
        return len(asked) >= 3

    with pytest.raises(Killed):
        train_job(lane(kill_at(7), preempted), job, load(job))
    assert load_checkpoint(job.unit).state.step == 3
    assert len(asked) == 3


def test_a_study_that_ends_costs_no_step(made, lane, undisturbed, monkeypatch):
    monkeypatch.setattr("taskpgm_ray.finetune.training.LOOK_SECONDS", 0.0)
    job = made[1]("stopped")
    seen = []
    with pytest.raises(Stopped):
        train_job(lane(seen.append, ending=lambda: len(seen) == 3), job, load(job))
    assert load_checkpoint(job.unit).state.step == 3
    train_job(lane(), job, load(job))
    assert steps(job) == steps(undisturbed[0])
    assert adapter(job) == adapter(undisturbed[0])


def test_a_study_that_ends_is_heeded_though_every_step_is_saved(made, lane, monkeypatch):
    monkeypatch.setattr("taskpgm_ray.finetune.training.LOOK_SECONDS", 0.0)
    job = made[1]("saved-often")
    seen = []
    with pytest.raises(Stopped):
        train_job(lane(seen.append, ending=lambda: len(seen) == 3, checkpoint_steps=1), job, load(job))
    assert load_checkpoint(job.unit).state.step == 3


def test_a_checkpoint_that_takes_long_is_not_due_again_at_once(made, monkeypatch):
    """Seconds are counted while it is written, too."""
    clock = {"seconds": 0.0}
    saved = []

    def save(unit, checkpoint, confirm):
        saved.append(clock["step"])
        clock["seconds"] += 300.0

    monkeypatch.setattr("taskpgm_ray.finetune.training.save_checkpoint", save)
    training = Training(None, Workers(), LaneConfig(checkpoint_seconds=60), 0)
    keeper = _Keeper(training, made[1]("slow-disk"), None)
    for step in range(1, 25):
        clock["seconds"] += 10.0
        clock["step"] = step
        keeper({"step": step, "seconds": clock["seconds"], "progress": step / 100, "loss": 1.0, "tokens": step},
               lambda: Checkpoint(None, ()))  # fmt: skip
    assert saved == [7, 14, 21]


def test_a_job_at_its_last_step_is_finished_though_the_study_ends(made, lane, monkeypatch):
    monkeypatch.setattr("taskpgm_ray.finetune.training.LOOK_SECONDS", 0.0)
    job = made[1]("last")
    seen = []
    train_job(lane(seen.append, ending=lambda: seen[-1]["progress"] == 1), job, load(job))
    assert job.unit.done()


def test_a_lane_whose_job_is_anothers_by_now_stores_nothing(made, lane):
    """As after a partition: the other one has finished, and this one's calls reach the fleet again."""
    job = made[1]("partitioned")

    def refused():
        raise RuntimeError("lane 0 was given up, and must not store anything")

    for lost in (lane(confirm=refused), lane(confirm=refused, checkpoint_steps=3)):
        data = load(job)
        with pytest.raises(RuntimeError, match="must not store anything"):
            train_job(lost, job, data)
        assert set(job.unit.files.names()) <= {"metrics.jsonl"}
        # Nor does one that began before the other one ended overwrite what that one finished.
    train_job(lane(), job, load(job))
    stored = {name: job.unit.files.read_bytes(name) for name in job.unit.files.names() if name != "metrics.jsonl"}

    def overtaken(row):
        job.unit.storage.upload(str(kept), job.unit.path)

    kept = Path(job.unit.files.path()).with_name("kept")
    shutil.copytree(job.unit.files.path(), kept, ignore=shutil.ignore_patterns("metrics.jsonl"))
    shutil.rmtree(job.unit.files.path())
    with pytest.raises(RuntimeError, match="must not store anything"):
        train_job(lane(overtaken, confirm=refused), job, load(job))
    assert {name: job.unit.files.read_bytes(name) for name in stored} == stored


def test_too_little_memory_halves_the_forward_passes(made, lane, undisturbed, monkeypatch):
    job, trainer = made[1]("halved"), made[0]
    forward, longest = trainer.module.forward, 0

    def little_memory(input_ids, **options):
        nonlocal longest
        longest = max(longest, input_ids.numel())
        if input_ids.numel() > 20:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(trainer.module, "forward", little_memory)
    manifest = train_job(lane(micro_batch_tokens=64), job, load(job))
    assert longest > 20
    assert manifest["micro_batch_tokens"] == 16
    assert manifest["loss_last"] == pytest.approx(undisturbed[1]["loss_last"], rel=0.05)


def test_memory_that_is_too_little_for_one_example_ends_the_job(made, lane, monkeypatch):
    def no_memory(**options):
        raise MemoryLimitError("nothing left")

    monkeypatch.setattr(made[0].module, "forward", no_memory)
    job = made[1]("hopeless")
    with pytest.raises(TrainingError, match=r"out of memory even with one example of \d+ tokens.*lower"):
        train_job(lane(), job, load(job))
    assert not job.unit.done()


def test_a_damaged_checkpoint_is_named(made, lane):
    job = made[1]("damaged")
    job.unit.files.write_bytes(FILE, b"nonsense")
    with pytest.raises(StorageError, match=rf"{FILE} is damaged: .*; remove it"):
        train_job(lane(), job, load(job))


@pytest.mark.parametrize(("most", "files"), [(2**31, 1), (40, 2), (1, 3)])
def test_a_checkpoint_comes_back_as_it_was(tmp_path, monkeypatch, most, files):
    import torch

    monkeypatch.setattr("taskpgm_ray.finetune.checkpoint.MOST_BYTES", most)
    unit = Unit(Storage(str(tmp_path)), "unit")
    assert load_checkpoint(unit) is None
    # The second replaces the first, whose further files go with it.
    for step in (2, 3):
        state = TrainState(step, 50, 60, 0.1, 2.5, float("1e-300"), 1 / 3)
        tensors = {"a": torch.randn(3, 2), "b": torch.randn(2), "c": torch.randn(4)}
        save_checkpoint(unit, Checkpoint(state, tensors.items()))
    again = load_checkpoint(unit)
    assert again.state == state
    read = dict(again.tensors)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert len(unit.files.names()) == files
    drop_checkpoint(unit, parts=True)
    assert unit.files.names() == []


def test_a_damaged_part_of_a_checkpoint_is_named(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr("taskpgm_ray.finetune.checkpoint.MOST_BYTES", 1)
    unit = Unit(Storage(str(tmp_path)), "unit")
    save_checkpoint(unit, Checkpoint(TrainState(4), [("a", torch.ones(2)), ("b", torch.ones(2))]))
    unit.files.write_bytes("checkpoint-4-0.safetensors", b"nonsense")
    with pytest.raises(StorageError, match=r"checkpoint-4-0\.safetensors is damaged: .*; remove it"):
        dict(load_checkpoint(unit).tensors)


def test_unreadable_data_are_the_jobs_fault(made):
    job = made[1]("unreadable")
    task = job.tasks[0]
    broken = Unit(job.unit.storage, "tasks/broken")
    broken.files.write_bytes("examples.parquet", b"nonsense")
    loader = Loader()
    bad = replace(job, tasks=(Task(task.name, broken),))
    with pytest.raises(StorageError, match=r"tasks/broken/examples\.parquet is damaged"):
        loader.get(bad)
    loader.prefetch(bad)
    with pytest.raises(StorageError, match=r"tasks/broken/examples\.parquet is damaged"):
        loader.get(bad)


def test_the_next_jobs_data_are_the_same_loaded_ahead(made):
    job = made[1]("ahead", "both", {"sum": 0.5, "copy": 0.5})
    loader = Loader()
    loader.prefetch(job)
    assert loader.get(job) == loader.get(job) == load(job)
