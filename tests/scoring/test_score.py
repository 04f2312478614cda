"""Units of scoring: what is stored, what it depends on, and that finished work is not done again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.errors import ModelError, ScoringError, StorageError
from taskpgm_ray.scoring.score import (
    LOGPROBS,
    ScoreWork,
    SegmentWork,
    build_segment,
    read_positions,
    read_scores,
    score_units,
    score_work,
    store_scores,
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

    method = "fake"

    def check(self, adapter):
        pass

    def top_tokens(self, prompts, k):
        self.calls.append("top_tokens")
        return np.stack([np.argsort(-self.distribution(p, None))[:k] for p in prompts]).astype(np.int32)

    def score(self, queries):
        if queries:
            self.calls.append("score")
        return [self.distribution(q.prompt, q.adapter)[q.tokens].astype(np.float32) for q in queries]


def score_unit(engine, work):
    (manifest,) = score_units(engine, [work])
    return manifest


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
    work = score_work(segment.unit, "a", adapter, CONFIG, "vllm", model, storage)
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
    work = score_work(segment.unit, "a", adapter, CONFIG, "vllm", model, storage)
    first = score_unit(engine, work)
    assert score_unit(engine, work) == first
    assert build_segment(engine, SegmentWork(segment, CONFIG)) == segment.unit.manifest()
    assert engine.calls == ["score"]


def test_a_unit_without_its_manifest_is_done_again(engine, segment, storage, model):
    work = score_work(segment.unit, "base", None, CONFIG, "vllm", model, storage)
    score_unit(engine, work)
    before = work.unit.files.read_bytes(LOGPROBS)
    Path(storage.path(f"{work.unit.path}/manifest.json")).unlink()
    score_unit(engine, work)
    assert engine.calls == ["score", "score"]
    assert work.unit.done()
    assert work.unit.files.read_bytes(LOGPROBS) == before


def test_an_engine_that_fails_leaves_no_finished_unit(engine, segment, storage, model):
    def fail(queries):
        raise RuntimeError("out of memory")

    engine.score = fail
    work = score_work(segment.unit, "base", None, CONFIG, "vllm", model, storage)
    with pytest.raises(RuntimeError, match=r"out of memory"):
        score_unit(engine, work)
    assert not work.unit.done()


def test_a_unit_is_named_by_what_it_depends_on(segment, storage, model, adapter):
    def path(segment=segment.unit, name="a", adapter=adapter, config=CONFIG, scorer="vllm", model=model):
        return score_work(segment, name, adapter, config, scorer, model, storage).unit.path

    original = path()
    segment_name = segment.unit.path.rpartition("/")[2]
    assert original.startswith(f"scores/{segment_name}/a-")
    assert path(config=CONFIG.model_copy(update={"top_k": 9, "segment_positions": 1})) == original
    changed = [
        path(segment=Unit(storage, "segments/x/other")),
        path(adapter=Unit(storage, "adapters/a-4567")),
        path(adapter=None),
        path(scorer="hf"),
        path(config=CONFIG.model_copy(update={"precision": "float16"})),
        path(model=type(model)(source="none", revision=None, fingerprint="model-1", dtype="float32")),
    ]
    assert len({original, *changed}) == 7


def test_read_positions(segment):
    table = read_positions(segment.unit)
    assert table.column_names == ["task", "probe", "step", "gold", "support"]
    assert table["task"].to_pylist() == ["a"] * 6 + ["b"] * 6
    assert table["step"].to_pylist() == [0, 1] * 6
    assert read_positions(segment.unit, ["gold"]).column_names == ["gold"]


def stored(storage, logprobs, precision="float32"):
    """A finished unit with these log-probabilities."""
    work = ScoreWork("a", Unit(storage, "segments/x/s"), None, Unit(storage, "scores/s/a-1"), precision)
    manifest = store_scores(work, np.asarray(logprobs, dtype=np.float32), {})
    return work.unit, manifest


def distributions(positions, cells=5, seed=0):
    logits = np.random.default_rng(seed).normal(size=(positions, cells + 1)) * 3
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[:, :cells].astype(np.float32)


def test_any_range_of_rows_can_be_read(storage):
    logprobs = distributions(1000)
    unit, _ = stored(storage, logprobs)
    for rows in (slice(0, 1000), slice(0, 1), slice(250, 260), slice(256, 512), slice(999, 1000)):
        np.testing.assert_array_equal(read_scores(unit, rows), logprobs[rows])


def test_half_precision_halves_the_file_and_stays_a_distribution(storage):
    # The largest rounding errors are those of a nearly certain token.
    logprobs = np.concatenate([distributions(500), np.log(np.full((4, 5), 0.2 - 1e-9))]).astype(np.float32)
    unit, _ = stored(storage, logprobs)
    size = Path(storage.path(f"{unit.path}/{LOGPROBS}")).stat().st_size
    stored(storage, logprobs, "float16")
    assert Path(storage.path(f"{unit.path}/{LOGPROBS}")).stat().st_size < 0.6 * size
    scores = read_scores(unit)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, logprobs, rtol=1e-3, atol=1e-3)
    assert np.exp(scores.astype(np.float64)).sum(1).max() <= 1 + 1e-6


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_scores_are_plain_parquet(storage, precision):
    import pyarrow.parquet as pq

    logprobs = distributions(3)
    unit, manifest = stored(storage, logprobs, precision)
    file = pq.ParquetFile(storage.path(f"{unit.path}/{LOGPROBS}"))
    assert file.schema_arrow.metadata[b"taskpgm.schema"] == b"scores/2"
    assert manifest["schema"] == "scores/2"
    frame = pq.read_table(storage.path(f"{unit.path}/{LOGPROBS}")).to_pandas()
    np.testing.assert_allclose(np.stack(frame["logprobs"]).astype(np.float32), logprobs, rtol=1e-3)


def test_damaged_scores_are_named(storage):
    unit, _ = stored(storage, distributions(300))
    path = Path(storage.path(f"{unit.path}/{LOGPROBS}"))
    whole = path.read_bytes()
    half = len(whole) // 2
    damages = {
        "truncated": whole[:half],
        "overwritten": whole[:half] + bytes(4000) + whole[half + 4000 :],
        "empty": b"",
        "another file": b"no parquet",
    }
    for what, content in damages.items():
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"scores/s/a-1/logprobs\.parquet is damaged"):
            read_scores(unit)
        assert what
    path.unlink()
    with pytest.raises(StorageError, match=r"scores/s/a-1/logprobs\.parquet is missing"):
        read_scores(unit)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"logprobs": [[-1.0], [-2.0, -3.0]]}), "is not a table of distributions"),
        (pa.table({"values": [1.0, 2.0]}), "is not a table of distributions"),
        (pa.table({"logprobs": pa.array([[-1.0] * 4] * 300, pa.list_(pa.float32(), 4))}), "is not a table of distr"),
        (pa.table({"logprobs": pa.array([[-1.0] * 5] * 299, pa.list_(pa.float32(), 5))}), "ends before row 300"),
        (pa.table({"logprobs": pa.array([[0.1] * 5] * 300, pa.list_(pa.float32(), 5))}), "no log-probabilities"),
        (pa.table({"logprobs": pa.array([[float("nan")] * 5] * 300, pa.list_(pa.float32(), 5))}), "no log-prob"),
    ],
)
def test_scores_of_another_form_are_refused(storage, table, message):
    unit, _ = stored(storage, distributions(300))
    unit.files.write_table(LOGPROBS, table)
    with pytest.raises(StorageError, match=message):
        read_scores(unit)


def test_a_unit_that_fails_does_not_take_the_others_of_its_batch(engine, segment, storage, model):
    units = [Unit(storage, f"adapters/{name}") for name in ("a-1", "bad-22", "missing-333")]
    works = [score_work(segment.unit, unit.path, unit, CONFIG, "vllm", model, storage) for unit in units]
    distribution = engine.distribution

    def check(adapter):
        if adapter == units[2]:
            raise ModelError("adapter missing-333 is not usable")

    engine.check = check
    engine.distribution = lambda prompt, adapter: distribution(prompt, adapter) * (np.nan if adapter == units[1] else 1)
    good, bad, missing = score_units(engine, works)
    assert engine.calls == ["score"]
    assert (good["positions"], works[0].unit.done()) == (12, True)
    assert isinstance(bad, ScoringError)
    assert "non-finite log-probabilities at 12 of 12 positions" in str(bad)
    assert "adapters/bad-22" in str(bad)
    assert "missing-333 is not usable" in str(missing)
    assert not works[1].unit.done()
    assert not works[2].unit.done()


def test_only_the_unfinished_units_of_a_batch_are_scored(engine, segment, storage, model):
    works = [
        score_work(segment.unit, f"t{i}", Unit(storage, f"adapters/{'x' * i}"), CONFIG, "vllm", model, storage)
        for i in range(1, 4)
    ]
    first = score_unit(engine, works[1])
    asked = []
    score = engine.score
    engine.score = lambda queries: asked.extend(q.adapter.path for q in queries) or score(queries)
    outcomes = score_units(engine, works)
    assert outcomes[1] == first
    assert set(asked) == {"adapters/x", "adapters/xxx"}
    assert [work.unit.manifest() for work in works] == outcomes
