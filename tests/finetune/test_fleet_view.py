"""What a terminal and a log are told about a running fleet."""

from rich.console import Console

from taskpgm_ray.finetune import fleet_view
from taskpgm_ray.finetune.fleet_view import FleetStatus, Pace, describe, fleet_table

ROW = {"step": 30, "loss": 1.234, "tokens": 5000, "seconds": 10.0, "progress": 0.5}
STATUS = FleetStatus(waiting=7, running={"boolq": ROW, "sst2": None}, lanes=2, pending=1)


def shown(*arguments):
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(fleet_table(*arguments))
    return console.export_text()


def test_the_table_counts_jobs_lanes_and_speed(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(fleet_view.time, "monotonic", lambda: now[0])
    pace = Pace(jobs=12)
    shown(STATUS, pace, 0, 0)
    now[0] = 160.0
    # Two jobs more within a minute: half a minute each, and nine and a half are left.
    text = " ".join(shown(STATUS, pace, 2, 1).split())
    assert "boolq 30" in text
    assert "1.234 500" in text
    assert "sst2 starting" in text
    assert "1 done, 1 failed, 2 running, 7 waiting, 2 lanes (1 starting), 500 tokens/s, 5 min left" in text


def test_what_a_checkpoint_brought_along_was_not_done_now(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(fleet_view.time, "monotonic", lambda: now[0])
    pace = Pace(jobs=2)
    assert pace.seconds_left(0.9) is None
    now[0] = 10.0
    # A tenth in ten seconds, and one whole job is left.
    assert round(pace.seconds_left(1.0)) == 100


def test_the_line_of_a_log():
    line = describe(STATUS)
    assert line == "boolq step 30 loss 1.23, sst2 starting (7 waiting, 2 lanes (1 starting))"
    assert describe(FleetStatus(1, {}, 1, 0)) == "a lane is starting (1 waiting, 1 lane)"
    assert describe(FleetStatus(0, {}, 2, 0)) == "nothing to train, engines are at work (0 waiting, 2 lanes)"
