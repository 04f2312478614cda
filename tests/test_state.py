"""How far a study is, from its folder."""

import json
import os
import socket
import time

import pytest

from taskpgm_ray.cli import main
from taskpgm_ray.config import load_config
from taskpgm_ray.errors import InputError
from taskpgm_ray.runtime.lease import FILE, sole_driver
from taskpgm_ray.state import leftovers, state_of
from taskpgm_ray.storage import Storage, Unit

CONFIG = {
    "study": "s",
    "pool": {"tasks": ["jsonl:a"]},
    "finetune": {"steps": 10, "lanes": {"max": 2}},
    "search": {"balances": 4},
}


@pytest.fixture
def storage(tmp_path):
    made = Storage(str(tmp_path / "s"))
    made.write_bytes("config.yaml", load_config(CONFIG).to_yaml().encode())
    for name in "abc":
        Unit(made, f"tasks/{name}-1").finish({})
    for name in ("a-1", "b-1"):
        Unit(made, f"adapters/{name}").finish({"wall_seconds": 30.0})
    made.write_json("adapters/c-1/failure.json", {"error": "TrainingError", "message": "the loss is not finite"})
    made.write_bytes("adapters/a-2/metrics.jsonl", b"x" * 1000)
    Unit(made, "mixtures/uniform-seed0-1").finish({"wall_seconds": 60.0})
    return made


def test_a_study_under_way(storage, capsys):
    state = state_of(storage)
    assert not state.finished
    assert (state.driver, state.alive) == (None, None)
    units = {unit.what: unit for unit in state.units}
    adapters = units["single-task adapters"]
    # Three tasks, all of which are fine-tuned twice.
    assert (adapters.done, adapters.begun, adapters.failed, adapters.planned) == (2, 1, 1, 6)
    assert state.failures == {"adapters/c-1": "the loss is not finite"}
    # Trials of four balances and two baselines, three fine-tunes of three finalists, the final one.
    assert units["fine-tunes on mixtures"].planned == 6 + 9 + 1
    assert state.seconds_left == pytest.approx((4 * 30 + 15 * 60) / 2)
    assert state.bytes == sum(size for size in storage.sizes().values()) > 1000
    assert main(["status", storage.uri]) == 0
    said = capsys.readouterr().out
    assert "not finished; nobody works on it" in said
    assert "single-task adapters    2 of at most 6; 1 begun, 1 failed" in said
    assert "adapters/c-1 failed: the loss is not finite" in said
    assert "left: about 8 min of fine-tuning" in said or "left: about 9 min of fine-tuning" in said
    assert main(["status", storage.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"][1]["done"] == 2


def test_a_finished_study(storage, capsys):
    storage.write_json("mixture.json", {})
    assert state_of(storage).finished
    assert state_of(storage).seconds_left is None
    main(["status", storage.uri])
    said = capsys.readouterr().out
    assert "of at most" not in said
    assert f"report: {storage.uri}/report.html" in said


def test_who_works_on_it(storage, capsys):
    with sole_driver(storage):
        state = state_of(storage)
        assert state.alive
        assert f"process {os.getpid()} on {socket.gethostname()}" in state.driver
    assert state_of(storage).driver is None
    gone = {"id": "x", "since": time.time(), "renewed": time.time() - 600, "host": "elsewhere", "pid": 3}
    storage.write_json(FILE, gone)
    assert state_of(storage).alive is False
    storage.write_json(FILE, gone | {"renewed": time.time()})
    assert state_of(storage).alive is None
    main(["status", storage.uri])
    assert "process 3 on elsewhere" in (said := capsys.readouterr().out)
    assert "may work on it" in said


def test_what_a_cut_fine_tune_would_go_on_from_is_no_leftover(storage):
    storage.write_bytes("adapters/d-1/metrics.jsonl", b"x")
    assert set(leftovers(storage)) == {"adapters/a-2", "adapters/d-1"}
    Unit(storage, "parts/d-1-at-0.25").finish({})
    storage.write_bytes("parts/a-2-at-0.5/adapter_model.safetensors", b"x")
    assert set(leftovers(storage)) == {"adapters/a-2", "parts/a-2-at-0.5"}


def test_what_a_later_run_goes_on_from_is_no_leftover(storage):
    storage.write_bytes("adapters/d-1/checkpoint.safetensors", b"x")
    assert set(leftovers(storage)) == {"adapters/a-2"}
    assert set(leftovers(storage, begun=True)) == {"adapters/a-2", "adapters/d-1"}


def test_records_of_searches_whose_trials_failed_can_be_removed(storage):
    Unit(storage, "search/outcome-1").finish({"failed": {"tau-2": "TrainingError: nan"}, "stopped": []})
    Unit(storage, "search/outcome-2").finish({"failed": {}, "stopped": ["tau-3"]})
    assert set(leftovers(storage, failed=True)) == {"adapters/a-2", "adapters/c-1", "search/outcome-1"}
    assert set(leftovers(storage)) == {"adapters/a-2"}


def test_what_failed_and_was_done_after_all_has_not_failed(storage):
    Unit(storage, "adapters/c-1").finish({"wall_seconds": 30.0})
    assert state_of(storage).failures == {}
    assert "adapters/c-1" not in leftovers(storage, failed=True)


def test_of_fine_tunes_that_may_end_early_no_number_is_foretold(storage):
    early = load_config(CONFIG | {"finetune": CONFIG["finetune"] | {"early": {}}})
    storage.write_bytes("config.yaml", early.to_yaml().encode())
    units = {unit.what: unit for unit in state_of(storage).units}
    assert units["single-task adapters"].planned is None


def test_no_study(tmp_path):
    with pytest.raises(InputError, match="holds no study"):
        state_of(Storage(str(tmp_path / "nowhere")))
    assert main(["status", str(tmp_path / "nowhere")]) == 4
