"""The stage around the fleet: which jobs are submitted, and what becomes of those that fail for good."""

import pytest
from rich.console import Console

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import ModelError, OutageError, ResourceError, TrainingError
from taskpgm_ray.finetune import stage as module
from taskpgm_ray.finetune.stage import FAILURE, finetune_pool, skipped
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.storage import Storage

MANIFEST = {"heldout_loss_before": 2.0, "heldout_loss_after": 1.0, "tokens": 10, "seconds": 1.0}


class StubRun:
    """Stands for a run whose fleet notes what it is given."""

    def __init__(self, config, progress):
        self.config, self.progress = config, progress
        self.fleet = self
        self.submitted = []

    def connect(self):
        assert not self.submitted

    def note(self):
        return ""

    def submit(self, job):
        self.submitted.append(job.name)
        return job


@pytest.fixture
def pool(tiny_jobs, tmp_path, monkeypatch):
    """run(study, bad, mode) -> names of the jobs that are kept; tasks named in ``bad`` fail."""

    def run(study, bad=(), mode="skip", error=None):
        jobs = [tiny_jobs[1](study, task) for task in ("copy", "parity", "sum")]
        console = Console(record=True, width=200)

        def collect(stage, references, on_done, status, on_error, view, note):
            for job in references.values():
                if job.name in bad:
                    on_error(job, error or TrainingError("the loss became nan"))
                else:
                    job.unit.finish(MANIFEST)
                    on_done(job, MANIFEST)

        monkeypatch.setattr(module, "collect", collect)
        config = load_config(
            {
                "study": "s",
                "pool": {"tasks": ["jsonl:x"]},
                "finetune": {"steps": 1, "on_task_failure": mode},
            }
        )
        stub = StubRun(config, Progress(Storage(str(tmp_path / study)), console))
        try:
            kept = finetune_pool(jobs, stub)
        finally:
            run.jobs, run.submitted, run.printed = jobs, stub.submitted, console.export_text()
        run.skipped = skipped(jobs, kept)
        return [job.name for job in kept]

    return run


def test_only_what_is_missing_is_submitted(pool):
    assert pool("plain") == ["copy", "parity", "sum"]
    assert pool.submitted == ["copy", "parity", "sum"]
    assert pool("plain") == ["copy", "parity", "sum"]
    assert pool.submitted == []


def test_a_failed_task_is_recorded_and_left_out_from_then_on(pool):
    assert pool("skipping", bad=["parity"]) == ["copy", "sum"]
    assert pool.skipped == {"parity": "the loss became nan"}
    assert "parity: FAILED, left out of the pool: the loss became nan" in pool.printed
    assert pool("skipping") == ["copy", "sum"]
    assert pool.submitted == []
    assert "parity failed in an earlier run and stays left out (the loss became nan); to try again" in pool.printed
    assert pool.skipped == {"parity": "the loss became nan"}
    pool.jobs[1].unit.files.delete_file(FAILURE)
    assert pool("skipping") == ["copy", "parity", "sum"]
    assert pool.skipped == {}


def test_a_failed_task_stops_the_study_and_is_tried_again(pool):
    with pytest.raises(TrainingError, match="the loss became nan"):
        pool("stopping", bad=["copy"], mode="stop")
    assert pool.jobs[0].unit.files.read_json(FAILURE) == {"error": "TrainingError", "message": "the loss became nan"}
    assert pool("stopping", mode="stop") == ["copy", "parity", "sum"]
    assert pool.submitted == ["copy", "parity", "sum"]


@pytest.mark.parametrize("error", [OutageError("no answer"), ResourceError("no GPU"), ModelError("no weights")])
def test_what_is_not_the_tasks_fault_leaves_no_task_out(pool, error):
    """A task that an outage left out would be missing in the published mixture, for good."""
    with pytest.raises(type(error)):
        pool(type(error).__name__, bad=["parity"], error=error)
    assert not pool.jobs[1].unit.files.exists(FAILURE)
    assert pool(type(error).__name__) == ["copy", "parity", "sum"]


def test_a_pool_of_one_is_no_pool(pool):
    with pytest.raises(TrainingError, match=r"only 1 of 3 tasks could be trained: \{'copy': .*'parity': "):
        pool("alone", bad=["copy", "parity"])
