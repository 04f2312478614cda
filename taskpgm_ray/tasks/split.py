"""What becomes of a task's rows: groups of one prompt, tokenised, and divided into train, probe and held-out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import DataError
from taskpgm_ray.storage import fingerprint
from taskpgm_ray.tasks.contamination import NOTHING, EvaluationTexts
from taskpgm_ray.tasks.conversations import NoExample
from taskpgm_ray.tasks.example import BadRow, check_bad
from taskpgm_ray.tasks.sources import TaskSource
from taskpgm_ray.tasks.tokens import Encoded, TooLong, encode


@dataclass(frozen=True)
class Split:
    """A task's examples, encoded and divided, before they are stored."""

    rows: list[dict[str, Any]]
    """As in ``examples.parquet``."""
    dropped: dict[str, int]
    """The counts of `TaskFacts`: ``read``, ``repeats``, ``too_long``, ``evaluated``, ``cut``, ``bad``."""
    bad: list[BadRow]
    """Rows that are no examples, and rows with over-long responses."""
    size: int
    layout: str
    order: list[str]
    """Ids of the rows as the file has them."""
    separators: Counter[str]
    """What stands between prompt and response, and in how many rows."""
    unread: Counter[str]
    """As of the `Reading`."""

    def of(self, split: str) -> list[dict[str, Any]]:
        """The rows of one split."""
        return [row for row in self.rows if row["split"] == split]


def split_task(source: TaskSource, config: StudyConfig, tokenizer: Any, evaluated: EvaluationTexts = NOTHING) -> Split:
    """Read, tokenise and split one task.

    Raises:
        DataError: It cannot be read, has too many bad rows, no usable example, or not more than probes are wanted.
    """
    prompts, made = _encode_all(source, config, tokenizer, evaluated)
    probes, kept = config.pool.probes_per_task, config.pool.probes_per_task + config.pool.heldout_per_task
    if len(prompts) <= kept:
        dropped = (
            f"{made.dropped['repeats']} repeats, {made.dropped['too_long']} over-long responses and "
            f"{made.dropped['evaluated']} that repeat evaluation items dropped"
        )
        raise too_few(source.name, len(prompts), sum(map(len, prompts.values())), kept, dropped)
    for rank, key in enumerate(sorted(prompts)):
        split = "probe" if rank < probes else "heldout" if rank < kept else "train"
        # Of a prompt with several answers all are learned; probing or holding out asks each prompt once.
        chosen = prompts[key] if split == "train" else prompts[key][:1]
        made.dropped["repeats"] += len(prompts[key]) - len(chosen)
        made.rows.extend({**row, "split": split} for row in chosen)
    return made


def too_few(name: str, prompts: int, answers: int, kept: int, dropped: str) -> DataError:
    """The error for a task with no more different ``prompts`` than are ``kept`` as probes or held out."""
    shared = answers > max(kept, prompts)
    advice = (
        f"its {answers} rows have only {prompts} prompt{'s' * (prompts != 1)}, and one with several answers cannot be "
        "both asked and trained. Put what tells the rows apart into the prompt (the task's `prompt` template), lower "
        "pool.probes_per_task or heldout_per_task, or drop the task"
        if shared
        else "examples with the same prompt count as one. Lower pool.probes_per_task or heldout_per_task, raise "
        "model.max_length, or drop the task"
    )
    return DataError(
        f"task {name!r} has {prompts} usable different examples ({dropped}), which is not more than the {kept} kept as "
        f"probes or held out; {advice}"
    )


def content_of(rows: list[dict[str, Any]]) -> str:
    """What is learned or asked: prompts and responses as the model sees them."""
    return fingerprint([(row["id"], row["prompt_ids"], row["response_ids"]) for row in rows])


def _encode_all(
    source: TaskSource, config: StudyConfig, tokenizer: Any, evaluated: EvaluationTexts
) -> tuple[dict[str, list[dict[str, Any]]], Split]:
    """Content hash of a prompt -> rows of its answers; and what became of all rows that were read."""
    pool, form = config.pool, config.model
    reading = source.read(pool.max_examples, config.seed)
    groups: dict[str, _Answers] = {}
    facts = {"read": len(reading.bad), "repeats": 0, "too_long": 0, "evaluated": 0, "cut": 0, "bad": len(reading.bad)}
    bad, separators = list(reading.bad), Counter[str]()
    found: list[tuple[str, dict[str, Any]]] = []
    for row in reading.rows:
        example, where = row.example, f"task {source.name!r}, {row.where}"
        facts["read"] += 1
        try:
            encoded = encode(example, tokenizer, form.prompt_format, form.max_length, where, pool.separator)
        except NoExample as error:
            facts["too_long" if isinstance(error, TooLong) else "bad"] += 1
            bad.append(BadRow(row.where, str(error)))
            continue
        if evaluated.shares_a_run_with(" ".join(content for _, content in example.turns)):
            facts["evaluated"] += 1
            continue
        # Examples with the same prompt are one group: a probe must not repeat a question that was trained on.
        key = fingerprint(config.seed, *example.prompt_key())
        group = groups.setdefault(key, _Answers(row.where))
        if not group.takes(encoded.example.response, row.where, one=pool.duplicates == "one"):
            facts["repeats"] += 1
            continue
        facts["cut"] += encoded.cut
        separators[encoded.separator] += 1
        found.append((key, group.add(encoded, example.answer, form.prompt_format == "chat")))
    check_bad(source.name, bad, facts["read"], pool.bad_rows == "stop", pool.max_bad_share)
    prompts = {key: group.identified(key) for key, group in groups.items()}
    order = [answer["id"] for _, answer in found]
    return prompts, Split([], facts, bad, reading.size, reading.layout, order, separators, reading.unread)


class _Answers:
    """The answers that a task gives to one prompt, the first of them in the row at ``where``."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.rows: list[tuple[int, str, dict[str, Any]]] = []
        self._seen: set[str] = set()

    def takes(self, response: str, where: str, one: bool) -> bool:
        """Whether an answer is new, and, where only ``one`` row of a prompt is wanted, of that row."""
        new = response not in self._seen and (not one or where == self.where)
        self._seen.add(response)
        return new

    def add(self, encoded: Encoded, number: int, chat: bool) -> dict[str, Any]:
        """The answer's row, without its id."""
        response = encoded.example.response
        row = {
            "id": "",
            "prompt": encoded.text,
            "response": response,
            "prompt_ids": encoded.prompt,
            "response_ids": encoded.response,
            "cut": encoded.cut,
        }
        if chat:
            # A template writes turns in its own way; whoever takes the example elsewhere needs them apart.
            example = encoded.example
            messages, tools = [*example.messages(), example.reply()], example.tools() or []
            row["chat"] = json.dumps({"messages": messages, "tools": tools}, ensure_ascii=False)
        self.rows.append((number, response, row))
        return row

    def identified(self, key: str) -> list[dict[str, Any]]:
        """All rows with their ids, in an order that does not depend on the file's."""
        rows = [row for *_, row in sorted(self.rows, key=lambda entry: entry[:2])]
        for position, row in enumerate(rows):
            row["id"] = fingerprint(key, position) if position else key
        return rows
