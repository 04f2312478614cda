"""The probe set: what is scored, on which tokens, and that later tasks change nothing that is there already."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.scoring.score import SegmentWork, build_segment
from taskpgm_ray.scoring.segments import SCHEMA, Block, blocks, frequent_answers, plan_segments, positions, support

SMALL = ScoringConfig(top_k=4, answer_tokens=2, positions_per_probe=2, segment_positions=4)
ROUNDS = SMALL.model_copy(update={"probes": "adaptive", "probes_start": 2, "segment_positions": 8})


class Engine:
    """A base model whose most likely tokens are 0, 1, 2, ..."""

    def top_tokens(self, prompts, k):
        import numpy as np

        return np.tile(np.arange(k, dtype=np.int32), (len(prompts), 1))


def block(make_task, name, probes=2):
    return make_task(name, [([10, i], [20 + i, 30, 1]) for i in range(probes)], [([5], [40, 1]), ([6], [40, 1])])


def built(plans):
    for plan in plans:
        build_segment(Engine(), SegmentWork(plan, SMALL))
    return [[task.name for task in plan.tasks] for plan in plans]


tokens = st.integers(0, 300)


@given(gold=tokens, answers=st.lists(tokens, max_size=40), k=st.integers(1, 90))
def test_a_support_has_its_size_the_gold_token_first_and_no_repeats(gold, answers, k):
    size = k + len(answers) + 1
    chosen = support(gold, answers, range(1000, 1000 + size), size)
    assert len(chosen) == len(set(chosen)) == size
    assert chosen[0] == gold
    assert set(answers) <= set(chosen)
    # However many repeats there are, the k most likely tokens are always in.
    assert set(range(1000, 1000 + k)) <= set(chosen)


@given(gold=st.integers(0, 9), answers=st.lists(st.integers(0, 9), max_size=6), k=st.integers(1, 8))
def test_overlaps_are_filled_with_the_next_likely_tokens(gold, answers, k):
    size = k + 6 + 1
    chosen = support(gold, answers, range(size), size)
    assert len(set(chosen)) == size
    assert set(range(k)) <= set(chosen)


def test_positions_are_the_first_answer_tokens_after_the_gold_answer_so_far(make_task):
    task = make_task("t", [([5, 6], [7, 8, 9, 1]), ([4], [1])])
    rows = positions(Block(task, 0, 2), ScoringConfig(positions_per_probe=3))
    assert [(row["probe"], row["step"], row["prompt"], row["gold"]) for row in rows] == [
        ("probe0", 0, [5, 6], 7),
        ("probe0", 1, [5, 6, 7], 8),
        ("probe0", 2, [5, 6, 7, 8], 9),
        ("probe1", 0, [4], 1),
    ]
    assert {row["task"] for row in rows} == {"t"}


def test_frequent_answers_are_ordered_by_count_then_by_token(make_task):
    task = make_task("t", [([2], [3])], [([2], [7, 1]), ([2], [5, 1]), ([2], [7, 5, 6, 1]), ([2], [3])])
    assert frequent_answers(task, 3) == [1, 5, 7]
    assert frequent_answers(task, 99) == [1, 5, 7, 3, 6]
    assert frequent_answers(task, 0) == []


def test_blocks_are_packed_until_a_segment_is_full(make_task, storage, model):
    # Each block is planned with 2 probes x 2 positions, which fills a segment of 4; three of 1 x 2 need two segments.
    full = [block(make_task, name) for name in "abc"]
    assert sorted(built(plan_segments(full, SMALL, model, storage))) == [["a"], ["b"], ["c"]]
    halves = [block(make_task, name, probes=1) for name in "xyz"]
    plans = plan_segments(halves, SMALL, model, storage)
    assert sorted([task.name for task in plan.tasks] for plan in plans) == [["x", "y"], ["z"]]


def test_segments_have_one_order_before_and_after_they_are_built(make_task, storage, model):
    """What is made of their scores is named by them in this order: a second run has to find it."""
    tasks = [block(make_task, name) for name in "abcdef"]
    plans = plan_segments(tasks, SMALL, model, storage)
    built(plans[::2])
    built(plans)
    paths = [plan.unit.path for plan in plans]
    assert len(paths) == 6
    assert [plan.unit.path for plan in plan_segments(tasks, SMALL, model, storage)] == paths


def test_a_later_task_opens_a_segment_and_changes_no_old_one(make_task, storage, model):
    halves = [block(make_task, name, probes=1) for name in "xyz"]
    built(plan_segments(halves, SMALL, model, storage))
    before = {plan.unit.path: plan.unit.files.read_bytes("positions.parquet") for plan in
              plan_segments(halves, SMALL, model, storage)}  # fmt: skip
    plans = plan_segments([block(make_task, "new", probes=1), *halves], SMALL, model, storage)
    assert {plan.unit.path for plan in plans if plan.unit.done()} == set(before)
    (opened,) = (plan for plan in plans if not plan.unit.done())
    assert [task.name for task in opened.tasks] == ["new"]
    built(plans)
    old = [plan for plan in plans if plan is not opened]
    assert all(plan.unit.files.read_bytes("positions.parquet") == before[plan.unit.path] for plan in old)
    # Planned again, everything is there: each block exactly once.
    again = plan_segments([*halves, block(make_task, "new", probes=1)], SMALL, model, storage)
    assert all(plan.unit.done() for plan in again)
    assert sorted(task.name for plan in again for task in plan.tasks) == ["new", "x", "y", "z"]


def test_a_removed_task_leaves_its_segment_in_use(make_task, storage, model):
    x, y, z = (block(make_task, name, probes=1) for name in "xyz")
    built(plan_segments([x, y, z], SMALL, model, storage))
    plans = plan_segments([y], SMALL, model, storage)
    assert [([task.name for task in plan.tasks], plan.unit.done()) for plan in plans] == [(["y"], True)]


def test_changed_probes_or_answers_make_a_new_block(make_task, storage, model):
    task = make_task("t", [([1], [2, 3])], [([4], [5])])
    built(plan_segments([task], SMALL, model, storage))
    for probe, train in ([([1], [2, 4])], [([4], [5])]), ([([1], [2, 3])], [([4], [6])]):
        (plan,) = plan_segments([make_task("t", probe, train)], SMALL, model, storage)
        assert not plan.unit.done()


def test_another_design_has_segments_of_its_own(make_task, storage, model):
    task = block(make_task, "t")
    built(plan_segments([task], SMALL, model, storage))
    for changes in ({"top_k": 5}, {"answer_tokens": 3}, {"positions_per_probe": 3}):
        (plan,) = plan_segments([task], SMALL.model_copy(update=changes), model, storage)
        assert not plan.unit.done(), changes
    # How the work is cut into files is no part of the design.
    (plan,) = plan_segments([task], SMALL.model_copy(update={"segment_positions": 99}), model, storage)
    assert plan.unit.done()


def test_a_built_segment_holds_the_documented_columns(make_task, storage, model):
    task = block(make_task, "t")
    (plan,) = plan_segments([task], SMALL, model, storage)
    manifest = build_segment(Engine(), SegmentWork(plan, SMALL))
    table = plan.unit.files.read_table("positions.parquet")
    assert table.schema.equals(SCHEMA)
    assert (manifest["positions"], manifest["support"], manifest["tasks"]) == (4, 7, ["t"])
    assert len(table) == 4
    for row in table.to_pylist():
        assert row["support"][0] == row["gold"]
        assert len(set(row["support"])) == 7
        # The most frequent training answers of the task.
        assert {1, 40} <= set(row["support"])


def planned(plans):
    """(tasks and ranges of probes, finished) of each segment."""
    return [([(b.task.name, b.start, b.stop) for b in plan.blocks], plan.unit.done()) for plan in plans]


def test_segments_of_all_probes_are_where_they_always_were(make_task, storage, model):
    """A study that was scored before there were rounds is found again."""
    halves, wholes = ([block(make_task, name, probes=k) for name in names] for names, k in (("xyz", 1), ("xy", 4)))
    wide = SMALL.model_copy(update={"segment_positions": 99})
    plans = plan_segments(halves, SMALL, model, storage) + plan_segments(wholes, wide, model, storage)
    folder = "segments/eeac5d89320eac97"
    assert {plan.unit.path for plan in plans} == {
        f"{folder}/3a8f5d10e5eafac1", f"{folder}/ecd2c7be1aa0189f", f"{folder}/a7945be527d7ff1a"
    }  # fmt: skip
    # A first round that takes all probes is no other block than theirs.
    at_once = wide.model_copy(update={"probes": "adaptive", "probes_start": 4})
    (plan,) = plan_segments(wholes, at_once, model, storage, 4)
    assert plan.unit.path == f"{folder}/a7945be527d7ff1a"


@given(start=st.integers(1, 50), probes=st.integers(1, 300), more=st.integers(0, 300))
def test_rounds_double_until_no_probe_is_left(start, probes, more):
    config = ROUNDS.model_copy(update={"probes_start": start})
    counts = config.rounds(probes)
    assert (counts[0], counts[-1]) == (min(start, probes), probes)
    assert all(before < after <= 2 * before for before, after in pairwise(counts))
    assert all(after == 2 * before for before, after in pairwise(counts[:-1]))
    # A larger probe set has the same rounds as far as the smaller one reaches.
    assert config.rounds(probes + more)[: len(counts) - 1] == counts[:-1]
    assert SMALL.rounds(probes) == (probes,)


@pytest.mark.parametrize("start", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("probes", [1, 2, 7])
def test_the_blocks_of_all_rounds_are_the_probes_in_their_order(start, probes, make_task):
    task = block(make_task, "t", probes)
    config = ROUNDS.model_copy(update={"probes_start": start})
    parts = blocks(task, config)
    assert [row for part in parts for row in positions(part, config)] == positions(Block(task, 0, probes), config)
    assert len({part.id for part in parts}) == len(parts)
    for count in config.rounds(probes):
        assert sum(part.probes for part in blocks(task, config, count)) == count


def test_each_round_opens_segments_for_its_own_probes(make_task, storage, model):
    tasks = [block(make_task, name, probes=5) for name in "ab"]
    first = plan_segments(tasks, ROUNDS, model, storage, 2)
    assert planned(first) == [([("a", 0, 2), ("b", 0, 2)], False)]
    built(first)
    second = plan_segments(tasks, ROUNDS, model, storage, 4)
    assert sorted(planned(second)) == [([("a", 0, 2), ("b", 0, 2)], True), ([("a", 2, 4), ("b", 2, 4)], False)]
    built(second)
    # What a later round has made is no part of an earlier one.
    assert planned(plan_segments(tasks, ROUNDS, model, storage, 2)) == [([("a", 0, 2), ("b", 0, 2)], True)]
    # By default all rounds are planned, each with segments of its own.
    last = plan_segments(tasks, ROUNDS, model, storage)
    assert sorted(planned(last)) == [
        ([("a", 0, 2), ("b", 0, 2)], True), ([("a", 2, 4), ("b", 2, 4)], True), ([("a", 4, 5), ("b", 4, 5)], False)
    ]  # fmt: skip


def test_a_task_that_comes_later_begins_with_its_first_round(make_task, storage, model):
    tasks = [block(make_task, name, probes=5) for name in "ab"]
    for count in (2, 4):
        built(plan_segments(tasks, ROUNDS, model, storage, count))
    grown = [*tasks, block(make_task, "new", probes=5)]
    first = plan_segments(grown, ROUNDS, model, storage, 2)
    assert sorted(planned(first)) == [([("a", 0, 2), ("b", 0, 2)], True), ([("new", 0, 2)], False)]
    built(first)
    second = plan_segments(grown, ROUNDS, model, storage, 4)
    assert [part for part, done in planned(second) if not done] == [[("new", 2, 4)]]
