"""Units of scoring: what is stored, what it depends on, and that finished work is not done again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.errors import StorageError
from taskpgm_ray.scoring.engine import Answer
from taskpgm_ray.scoring.score import (
    LOGPROBS,
    SegmentWork,
    build_segment,
    read_positions,
    read_scores,
    score_unit,
    score_work,
)
from taskpgm_ray.scoring.segments import plan_segments
from taskpgm_ray.storage import Unit

CONFIG = ScoringConfig(top_k=3, answer_tokens=1, positions_per_probe=2)
VOCABULARY = 50


class FakeEngine:
    """Distributions that depend on the prompt and on the adapter, and a record of what was asked."""

    def __init__(self):
        self.calls = []

    def distribution(self, prompt, adapter):
        rng = np.random.default_rng([*prompt, len(adapter.path) if adapter else 0])
        logits = rng.normal(size=VOCABULARY)
        return logits - np.log(np.exp(logits).sum())

    def top_tokens(self, prompts, k):
        self.calls.append("top_tokens")
        return np.stack([np.argsort(-self.distribution(p, None))[:k] for p in prompts]).astype(np.int32)

    def next_token(self, queries):
        self.calls.append("next_token")
        return [Answer(self.distribution(q.prompt, q.adapter)[q.tokens].astype(np.float32), 0) for q in queries]


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def segment(engine, make_task, storage, model):
    tasks = [make_task(name, [([10 + i, 3], [20 + i, 1]) for i in range(3)], [([5], [8])]) for name in ("a", "b")]
    (plan,) = plan_segments(tasks, CONFIG, model, storage)
    build_segment(engine, SegmentWork(plan, CONFIG))
    engine.calls.clear()
    return plan


@pytest.fixture
def adapter(storage):
    return Unit(storage, "adapters/a-0123")


def test_scores_round_trip_in_the_order_of_the_positions(engine, segment, storage, model, adapter):
    work = score_work(segment.unit, "a", adapter, CONFIG, model, storage)
    manifest = score_unit(engine, work)
    scores = read_scores(work.unit)
    rows = segment.unit.files.read_table("positions.parquet").to_pylist()
    assert scores.shape == (12, 5)
    assert scores.dtype == np.float32
    for row, stored in zip(rows, scores, strict=True):
        np.testing.assert_array_equal(
            stored, engine.distribution(row["prompt"], adapter)[row["support"]].astype(np.float32)
        )
    assert manifest["positions"] == 12
    assert manifest["tokens"] == sum(len(row["prompt"]) for row in rows)
    assert manifest["coverage"] == pytest.approx(np.exp(scores.astype(np.float64)).sum(1).mean())
    assert work.unit.manifest() == manifest


def test_finished_units_are_not_done_again(engine, segment, storage, model, adapter):
    work = score_work(segment.unit, "a", adapter, CONFIG, model, storage)
    first = score_unit(engine, work)
    assert score_unit(engine, work) == first
    assert build_segment(engine, SegmentWork(segment, CONFIG)) == segment.unit.manifest()
    assert engine.calls == ["next_token"]


def test_a_unit_without_its_manifest_is_done_again(engine, segment, storage, model):
    work = score_work(segment.unit, "base", None, CONFIG, model, storage)
    score_unit(engine, work)
    before = work.unit.files.read_bytes(LOGPROBS)
    Path(storage.path(f"{work.unit.path}/manifest.json")).unlink()
    score_unit(engine, work)
    assert engine.calls == ["next_token", "next_token"]
    assert work.unit.done()
    assert work.unit.files.read_bytes(LOGPROBS) == before


def test_an_engine_that_fails_leaves_no_finished_unit(engine, segment, storage, model):
    def fail(queries):
        raise RuntimeError("out of memory")

    engine.next_token = fail
    work = score_work(segment.unit, "base", None, CONFIG, model, storage)
    with pytest.raises(RuntimeError, match=r"out of memory"):
        score_unit(engine, work)
    assert not work.unit.done()


def test_a_unit_is_named_by_what_it_depends_on(segment, storage, model, adapter):
    def path(segment=segment.unit, name="a", adapter=adapter, config=CONFIG, model=model):
        return score_work(segment, name, adapter, config, model, storage).unit.path

    original = path()
    segment_name = segment.unit.path.rpartition("/")[2]
    assert original.startswith(f"scores/{segment_name}/a-")
    assert path(config=CONFIG.model_copy(update={"top_k": 9, "segment_positions": 1})) == original
    changed = [
        path(segment=Unit(storage, "segments/x/other")),
        path(adapter=Unit(storage, "adapters/a-4567")),
        path(adapter=None),
        path(config=CONFIG.model_copy(update={"scorer": "hf"})),
        path(model=type(model)(source="none", revision=None, fingerprint="model-1", dtype="float32")),
    ]
    assert len({original, *changed}) == 6


def test_read_positions(segment):
    table = read_positions(segment.unit)
    assert table.column_names == ["task", "probe", "step", "gold", "support"]
    assert table["task"].to_pylist() == ["a"] * 6 + ["b"] * 6
    assert table["step"].to_pylist() == [0, 1] * 6
    assert read_positions(segment.unit, ["gold"]).column_names == ["gold"]


def test_damaged_scores_are_named(storage):
    unit = Unit(storage, "scores/s/a-1")
    with pytest.raises(StorageError, match=r"scores/s/a-1/logprobs\.parquet is missing"):
        read_scores(unit)
    unit.files.write_table(LOGPROBS, pa.table({"logprobs": [[1.0], [2.0, 3.0]]}))
    with pytest.raises(StorageError, match=r"is not a table of distributions; remove its folder to redo it"):
        read_scores(unit)
