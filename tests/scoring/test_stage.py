"""Whose scores are whose: no Ray, no engine."""

from types import SimpleNamespace

from taskpgm_ray.config import load_config
from taskpgm_ray.scoring import stage
from taskpgm_ray.scoring.auto_scorer import _unit
from taskpgm_ray.storage import Unit


def config(**scoring):
    study = {"study": "s", "pool": {"tasks": ["jsonl:a", "jsonl:b"]}, "finetune": {"steps": 9}}
    return load_config(study | {"scoring": scoring})


def test_a_task_may_be_called_as_the_base_model_is(make_task, storage, model, monkeypatch):
    monkeypatch.setattr(stage, "_build_segments", lambda *_: None)
    scored = []
    monkeypatch.setattr(stage, "_score_missing", lambda works, run: scored.extend(works))
    names = ["base", "other"]
    tasks = [make_task(name, [([ord(name[0])], [2])]) for name in names]
    jobs = [SimpleNamespace(name=name, unit=Unit(storage, f"adapters/{name}-1")) for name in names]
    run = SimpleNamespace(config=config(), model=model, storage=storage)
    (segment,) = stage.score_pool(jobs, tasks, run)
    assert [work.adapter for work in scored] == [None, *(job.unit for job in jobs)]
    assert [segment.base, *segment.scores.values()] == [work.unit for work in scored]
    assert len({work.unit.path for work in scored}) == 3


def test_a_study_keeps_its_scorer_with_other_engines(storage, model):
    kept = {_unit(config(scorer="auto", engines=engines), model, storage).path for engines in (
        {}, {"max": 2}, {"idle_seconds": 10}, {"threads": 1}, {"cached_adapters": 64}, {"gpus": 1},
    )}  # fmt: skip
    assert len(kept) == 1
