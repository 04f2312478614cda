"""Rows that hold several prompts: what they hold, what they save, and that nobody sees more than alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpgm_ray.scoring.shared_prefix import LEAST, Row, mask_of, rows_of, shared, takes_masks

prompts = st.lists(
    st.builds(
        lambda head, tail: [*range(head), *tail], st.integers(1, 60), st.lists(st.integers(100, 103), max_size=8)
    ),
    max_size=12,
)


@given(prompts)
def test_rows_hold_every_prompt_once_and_never_more_tokens(asked):
    rows = rows_of(asked)
    assert [index for _, members in rows for index in members] == list(range(len(asked)))
    for row, members in rows:
        assert [[*row.trunk, *end] for end in row.ends] == [asked[index] for index in members]
        assert len(members) == 1 or len(row.trunk) >= LEAST
        assert row.size <= sum(len(asked[index]) for index in members)
        assert len(row.ids) == len(row.positions) == len(row.parts) == row.size
        for number, index in enumerate(members):
            for length in range(1, len(asked[index]) + 1):
                place = row.place(number, length)
                assert row.ids[place] == asked[index][length - 1]
                assert row.positions[place] == length - 1


@given(prompts)
def test_each_token_sees_what_it_sees_alone(asked):
    import torch

    rows = [row for row, _ in rows_of(asked)]
    if not rows:
        return
    width = max(row.size for row in rows) + 2
    allowed = (mask_of(rows, width, torch.float32) == 0).numpy()[:, 0]
    for number, row in enumerate(rows):
        start = width - row.size
        for end in range(len(row.ends)):
            for length in range(1, len(row.trunk) + len(row.ends[end]) + 1):
                seen = np.flatnonzero(allowed[number, start + row.place(end, length)])
                assert seen.tolist() == [start + row.place(end, before) for before in range(1, length + 1)]


def test_a_question_and_its_choices_cost_one_row():
    question = list(range(200))
    choices = [[*question, 500 + i, 600] for i in range(10)]
    ((row, members),) = rows_of(choices)
    assert members == list(range(10))
    assert row.size == 200 + 20
    # Another question with the same instruction in front does not break it up.
    other = [[*question[:40], *range(900, 1000), 500 + i] for i in range(4)]
    assert [members for _, members in rows_of([*choices, *other])] == [list(range(10)), [10, 11, 12, 13]]


def test_shared():
    assert shared([1, 2, 3], [1, 2, 4]) == 2
    assert shared([1, 2], [1, 2, 4]) == 2
    assert shared([], [1]) == 0
    assert Row([1, 2], [[3], [4, 5]]).ids == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        ({"rope_theta": 1e4}, True),
        ({"rope_parameters": {"rope_theta": 1e4}, "layer_types": ["full_attention"] * 2}, True),
        ({"rope_theta": 1e4, "layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"rope_theta": 1e4, "sliding_window": 4096}, False),
        ({"rope_theta": 1e4, "sliding_window": 4096, "use_sliding_window": False}, True),
        ({"rope_theta": 1e4, "alibi": True}, False),
        ({"n_positions": 1024}, False),
    ],
)
def test_models_that_attend_otherwise_are_left_alone(config, taken):
    assert takes_masks(SimpleNamespace(**config)) is taken
