"""Do what is missing: which works are handed out, when Ray is asked for, and what is shown."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from rich.console import Console

from taskpgm_ray.runtime.missing import missing
from taskpgm_ray.runtime.progress import Progress, StageCost
from taskpgm_ray.storage import Storage, Unit


@dataclass(frozen=True)
class Work:
    unit: Unit


@pytest.fixture
def setting(tmp_path):
    """(works in three units, the last one twice; a run that counts its connections and records its console)."""
    storage = Storage(str(tmp_path))
    console = Console(record=True, width=100)
    run = SimpleNamespace(connected=0, progress=Progress(storage, console))

    def connect():
        run.connected += 1

    run.connect = connect
    return [Work(Unit(storage, f"u/{name}")) for name in "abcc"], run


def test_finished_works_are_passed_over_and_one_unit_is_one_work(setting):
    works, run = setting
    works[0].unit.finish({})
    with missing(run, "count", works) as (stage, todo):
        assert [work.unit.path for work in todo] == ["u/b", "u/c"]
        assert run.connected == 1
        for work in todo:
            work.unit.finish({})
            stage.finished(work.unit.path, tokens=5)
    printed = run.progress.console.export_text()
    assert "count: 1 of 3 already there, 2 to do" in printed
    assert "count 2/3  u/b" in printed
    assert "count 3/3  u/c" in printed
    (cost,) = run.progress.stages()
    assert (cost.stage, cost.tokens, cost.done) == ("count", 10, 2)


def test_with_nothing_to_do_ray_is_not_asked_for(setting):
    works, run = setting
    for work in works:
        work.unit.finish({})
    with missing(run, "count", works) as (_, todo):
        assert todo == []
    assert run.connected == 0
    assert run.progress.console.export_text().strip() == "count: nothing to do"
    assert run.progress.stages() == []


def test_costs_add_up_over_runs(setting):
    works, run = setting
    for part in (works[:1], works[1:]):
        with missing(run, "count", part) as (stage, todo):
            for work in todo:
                work.unit.finish({})
                stage.finished("", tokens=1)
    (cost,) = run.progress.stages()
    assert isinstance(cost, StageCost)
    assert (cost.done, cost.tokens) == (3, 3)
