"""A study whose bucket fails all the time, and is away for a minute in each stage: the same mixture, nothing lost."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from taskpgm_ray.storage import Storage
from tests.integration.failing_s3 import FailingS3

pytestmark = [pytest.mark.integration, pytest.mark.outages]
ROOT = Path(__file__).parents[2]
OUTAGE = 60.0
STAGES = ("tasks", "finetune", "score", "affinity", "noise", "search", "report split")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "planted-key-id",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-0123",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def bucket(monkeypatch):
    pytest.importorskip("moto")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = FailingS3()
    yield server
    server.close()


def study(config, folder, on_line=lambda line: None):
    """Run it as a user does; what it printed, and how long it took."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(config))
    began = time.monotonic()
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "optimize.py"), "--config", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    printed = []
    for line in driver.stdout:
        printed.append(line)
        on_line(line)
    assert driver.wait() == 0, "".join(printed)[-6000:]
    return "".join(printed), time.monotonic() - began


def mixture(storage):
    return {task["name"]: task["weight"] for task in storage.read_json("mixture.json")["tasks"]}


def adapters(storage):
    """Unit -> (weights, steps that were computed)."""
    return {
        name: (
            storage.read_bytes(f"adapters/{name}/adapter_model.safetensors"),
            [json.loads(line)["step"] for line in storage.read_bytes(f"adapters/{name}/metrics.jsonl").splitlines()],
        )
        for name in storage.names("adapters")
    }


def test_a_bucket_that_fails_and_goes_away_in_every_stage(tiny_config, tmp_path, bucket, cost):
    quiet, failing = tmp_path / "quiet", tmp_path / "failing"
    quiet.mkdir()
    failing.mkdir()
    study(tiny_config("runs"), quiet)
    bucket.share = 0.05
    seen = []

    def on_line(line):
        for stage in STAGES:
            if stage not in seen and line.startswith(f"{stage}: ") and "nothing to do" not in line:
                seen.append(stage)
                time.sleep(1)
                bucket.go_away(OUTAGE)

    printed, _ = study(tiny_config(bucket.uri("studies", "runs")), failing, on_line)
    assert seen == list(STAGES)
    assert bucket.failed > 50
    assert bucket.swallowed > len(STAGES)
    bucket.share = 0.0
    here, there = Storage(str(quiet / "runs" / "tiny")), Storage(bucket.uri("studies", "runs")) / "tiny"
    assert mixture(there) == mixture(here)
    # No task is left out, every adapter is the same to the bit, and no step was computed twice.
    assert adapters(there) == adapters(here)
    assert not [name for name in there.names("adapters") if "failure.json" in there.names(f"adapters/{name}")]
    for kind in ("trials", "reported", "scores"):
        assert there.names(kind) == here.names(kind)
    assert "FAILED" not in printed
    for value in (CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"]):
        assert value not in printed
        for name in there.names():
            if "." in name:
                assert value.encode() not in there.read_bytes(name), name
    cost("5 % of the requests to S3 fail, and all of them for a minute", "every stage", "no step, no unit")
