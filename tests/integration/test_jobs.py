"""Studies as Ray jobs on one cluster: one is stopped in each of its stages and submitted again, one runs beside it."""

import re
import time

import pytest
import yaml

from tests.integration.job_head import JobHead
from tests.integration.studies import adapters, computed, mixture, optimize_command, units

pytestmark = [pytest.mark.integration, pytest.mark.faults]
STEPS = 60
# Stage -> what shows that it works: a fine-tune in the middle, or the first of its results in the log.
STOPS = {
    "finetune": "adapters/*/metrics.jsonl",
    "score": None,
    "search": "mixtures/*/metrics.jsonl",
    "finalists": "mixtures/*/metrics.jsonl",
    "report split": None,
}


@pytest.fixture
def head(tmp_path, monkeypatch):
    """It lets a job that is stopped a minute to end in order."""
    with JobHead(tmp_path, RAY_JOB_STOP_WAIT_TIME_S="60") as head:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.setenv(name, head.environment[name])
        yield head


@pytest.fixture
def submit(head, tiny_config, tmp_path):
    """Submits a study by its name and returns the job's id; both studies have one storage."""
    evaluation = {"max_subjects": 2, "max_bbh_tasks": 2, "report_seeds": 2, "samples": 0}
    search = {"balances": 1, "tau": [0.0, 2.0], "affinities": ["jsd"], "baselines": ["uniform"]}

    def start(study):
        config = tiny_config(tmp_path / "runs", study, evaluation=evaluation, search=search)
        config["finetune"]["steps"] = STEPS
        config["scoring"]["scorer"] = "hf"
        del config["cluster"]
        file = tmp_path / f"{study}.yaml"
        file.write_text(yaml.safe_dump(config))
        done = head.job("submit", "--no-wait", "--", *optimize_command(file))
        assert done.returncode == 0, done.stdout + done.stderr
        return re.search(r"raysubmit_\w+", done.stdout)[0]

    return start


@pytest.mark.timeout(1500)
def test_a_job_that_is_stopped_in_each_stage_repeats_nothing(head, submit, tmp_path, cost):
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(head.address)
    folder = tmp_path / "runs" / "stopped"
    undisturbed = submit("undisturbed")
    done, seconds = {}, []
    for stage, work in STOPS.items():
        job = submit("stopped")
        wait_until_works(client, job, folder, stage, work)
        began = time.monotonic()
        client.stop_job(job)
        wait_until_ended(client, job)
        seconds.append(time.monotonic() - began)
        log = client.get_job_logs(job)
        assert client.get_job_status(job) == "STOPPED", log[-4000:]
        assert not over(log, stage), f"{stage} was over before it was stopped"
        assert not (folder / "driver.json").exists(), f"it did not end in order: {log[-4000:]}"
        now = units(folder)
        assert {name: now[name] for name in done} == done, "a finished unit was made again"
        done = now
    job = submit("stopped")
    for last in (job, undisturbed):
        wait_until_ended(client, last)
        assert client.get_job_status(last) == "SUCCEEDED", client.get_job_logs(last)[-4000:]
    now = units(folder)
    assert {name: now[name] for name in done} == done, "a finished unit was made again"
    other = tmp_path / "runs" / "undisturbed"
    assert mixture(folder) == mixture(other)
    assert adapters(folder) == adapters(other)
    repeated = sum(len(steps) - STEPS for steps in computed(folder).values())
    assert all(set(steps) == set(range(1, STEPS + 1)) for steps in computed(folder).values())
    assert repeated == 0
    cost(f"`ray job stop`, ended within {max(seconds):.0f} s", ", ".join(STOPS), "nothing")


def begun(log, stage):
    return re.search(rf"^{stage}: .*[1-9]\d* to do", log, re.MULTILINE)


def over(log, stage):
    return re.search(rf"^{stage}: \d+ s", log, re.MULTILINE)


def works(log, stage, in_the_middle):
    """Whether a stage has begun in this job, is not over, and something of it is there or half there."""
    if not begun(log, stage) or over(log, stage):
        return False
    return in_the_middle() or re.search(rf"^  {stage} +\d+/\d+  ", log, re.MULTILINE)


def wait_until_works(client, job, folder, stage, work):
    def half_a_fine_tune():
        found = folder.glob(work) if work else []
        return any(not (f.parent / "manifest.json").exists() and len(f.read_text().splitlines()) > 5 for f in found)

    deadline = time.monotonic() + 400
    while not works(log := client.get_job_logs(job), stage, half_a_fine_tune):
        assert not client.get_job_status(job).is_terminal(), f"the job ended before {stage}: {log[-4000:]}"
        assert time.monotonic() < deadline, f"waited for {stage}: {log[-4000:]}"
        time.sleep(0.05)


def wait_until_ended(client, job):
    deadline = time.monotonic() + 600
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(job)[-4000:]
        time.sleep(0.2)
