"""Which BBH questions have a closed set of answers, and when an open answer is right."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.evaluation import NextToken, prepare
from taskpgm_ray.evaluation.answers import closed_answers
from taskpgm_ray.evaluation.run import evaluate
from taskpgm_ray.storage import Storage

from .helpers import write_lines

DATA = Path(__file__).parents[3] / "shared" / "data" / "bbh"
OPTIONS = "Which one?\nOptions:\n(A) a film (1999)\n(B) another\n(C) a third"


@pytest.mark.parametrize(
    ("question", "target", "expected"),
    [
        (OPTIONS, "(B)", ("(A)", "(B)", "(C)")),
        (OPTIONS, "another", ("(A)", "(B)", "(C)", "another")),
        ("not ( True ) is", "False", ("True", "False")),
        ("Did he?\nOptions:\n- Yes\n- No", "Yes", ("Yes", "No")),
        ("Is it plausible?", "no", ("yes", "no")),
        ("Is the argument valid?", "invalid", ("valid", "invalid")),
        ("How many objects?", "14", None),
        ("Sort: b a", "a b", None),
        ("( [ { } ]", ")", None),
    ],
)
def test_closed_answers(question: str, target: str, expected: tuple[str, ...] | None) -> None:
    assert closed_answers(question, target) == expected


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared benchmark data")
def test_every_task_of_the_benchmark_is_closed_or_open_as_a_whole() -> None:
    kinds = {}
    for file in sorted(DATA.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        kinds[file.stem] = {closed_answers(row["input"], row["target"].strip()) is not None for row in rows}
    assert all(len(found) == 1 for found in kinds.values())
    opened = {name for name, found in kinds.items() if found == {False}}
    assert opened == {"dyck_languages", "multistep_arithmetic_two", "object_counting", "word_sorting"} & kinds.keys()


class Scripted:
    """Every token has probability 1/8, but the first of an answer as told; what follows an answer is scripted."""

    def __init__(self, tokenizer: Any, first: dict[str, float], following: str) -> None:
        self.tokenizer, self.first, self.following = tokenizer, first, following

    def next_token(self, prompts: list[list[int]], tokens: list[list[int]]) -> NextToken:
        logprobs, greedy = [], []
        for ids in tokens:
            said = [self.tokenizer.decode([token]).strip() for token in ids]
            logprobs.append(np.log([self.first.get(text, 1 / 8) for text in said]).astype("float32"))
            end = ids == [self.tokenizer.eos_token_id]
            greedy.append(self.tokenizer.encode(self.following, add_special_tokens=False)[0] if end else ids[0])
        return NextToken(logprobs, greedy)

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        raise AssertionError("nothing is generated")


def scored(tmp_path: Path, tokenizer: Any, rows: list[dict[str, str]], client: Any) -> list[Any]:
    write_lines(tmp_path / "data" / "bbh" / "t.jsonl", rows)
    config = EvaluationConfig(data=str(tmp_path / "data"), mmlu=False, search_items_per_task=2)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    return evaluate(sets.search, client, tokenizer)


def test_a_closed_answer_counts_among_all_that_are_possible(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"input": f"not not {i} is", "target": "True"} for i in range(4)]
    client = Scripted(tokenizer, {"True": 0.03, "False": 0.01}, "x")
    for row in scored(tmp_path, tokenizer, rows, client):
        # Greedy decoding would say something else altogether; of the two answers the right one is likelier.
        assert row.accuracy == 1.0
        assert row.gold_logprob == pytest.approx(math.log(0.75), abs=1e-4)


@pytest.mark.parametrize(("following", "right"), [("4", 0.0), (" sheep", 0.0), ("\n", 1.0), ("</s>", 1.0)])
def test_an_open_answer_is_right_only_where_it_ends(
    tmp_path: Path, tokenizer: Any, following: str, right: float
) -> None:
    """ "14" is no right answer where "1" is."""
    rows = [{"input": f"How many of {i}?", "target": "1"} for i in range(4)]
    found = scored(tmp_path, tokenizer, rows, Scripted(tokenizer, {}, following))
    assert {row.accuracy for row in found} == {right}
    assert all(row.gold_logprob == pytest.approx(-math.log(8), abs=1e-4) for row in found)
