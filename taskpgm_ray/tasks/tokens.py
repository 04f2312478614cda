"""One tokenisation: the same functions make the ids for training, scoring, held-out loss and evaluation.

Ids are those of the joint text, prompt and response as one, as every trainer makes them; the border stands where the
prompt's own ids end, as in lm-eval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks import separator as separators
from taskpgm_ray.tasks.chat import Rendered, generation_prompt, render
from taskpgm_ray.tasks.conversations import NoExample
from taskpgm_ray.tasks.example import Example
from taskpgm_ray.tasks.marks import controls, refuse_controls, refuse_templated, without_begin, without_end


class TooLong(NoExample):
    """Response and frame alone do not fit into the maximal length."""


@dataclass(frozen=True)
class Encoded:
    """An example as the model sees it."""

    prompt: list[int]
    response: list[int]
    """It ends with the end of turn (chat) or of sequence (plain), which is learned and scored."""
    cut: bool
    """Whether the prompt lost tokens in its middle to fit into the maximal length."""
    text: str
    """The prompt as plain text, see `prompt_text`."""
    example: Example
    """As the file has it, without marks of begin and end."""
    written: Rendered
    """Prompt and response as the model reads them."""
    separator: str
    """What stands between them in the plain format."""


def prompt_text(example: Example, prompt_format: Literal["plain", "chat"], where: str) -> str:
    """The prompt as plain text: what a reader, or a text affinity, compares.

    Raises:
        DataError: A conversation in the plain format, which has no way to write turns.
    """
    if prompt_format == "plain" and needs_chat(example):
        raise DataError(f"{where}: a system message or a conversation of several turns needs model.prompt_format=chat")
    return "\n\n".join(content for _, content in example.turns)


def needs_chat(example: Example) -> bool:
    """Whether only a chat template can write the prompt: it is more than one question."""
    return len(example.turns) != 1 or example.turns[0][0] != "user"


def bare(example: Example, tokenizer: Any) -> Example:
    """The example without the marks of begin and end that its file has written.

    Raises:
        NoExample: It holds a control token elsewhere, or nothing is left.
    """
    (role, first), *turns = example.turns
    begins = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in leading(tokenizer)
    first = without_begin(first, tokenizer.bos_token if begins else None)
    response = without_end(example.response, controls(tokenizer))
    if not response.strip():
        raise NoExample("the response is empty")
    chat = example.chat
    if (first, response) != (example.turns[0][1], example.response):
        example = replace(example, turns=((role, first), *turns), response=response, chat=_told(chat, first, response))
    contents = [content for _, content in example.turns]
    if not any(content.strip() for content in contents):
        raise NoExample("the prompt is empty")
    refuse_controls("\n".join([example.chat, *contents, response]), tokenizer)
    return example


def encode(
    example: Example,
    tokenizer: Any,
    prompt_format: Literal["plain", "chat"],
    max_length: int,
    where: str,
    separator: str | None = None,
) -> Encoded:
    """Token ids of one example.

    A prompt that is too long loses its middle: the begin-of-text token, the template's header and the question, which
    stands first or last, stay.

    Args:
        example: Prompt and response with every character of the file.
        tokenizer: Of the base model.
        prompt_format: The format: ``plain`` text, or the model's ``chat`` template.
        max_length: Tokens at most, prompt and response.
        where: Task, file and line, for errors.
        separator: ``pool.separator``, for the plain format.

    Raises:
        DataError: The model has no chat template, or the format does not fit the task (see `prompt_text`).
        NoExample: This row cannot be used: `TooLong`, control tokens in its text, a template that refuses it.
    """
    prompt_text(example, prompt_format, where)
    example = bare(example, tokenizer)
    text, between = prompt_text(example, prompt_format, where), ""
    if prompt_format == "chat":
        refuse_templated(text)
        written = render(example, tokenizer, where)
    else:
        between = separators.separator(text, example.response, separator)
        written = Rendered(text, between + example.response, ended=False, frame=(0, len(text)))
    prompt, response = pair(written.prompt, written.response, tokenizer)
    if not written.ended:
        response = [*response, tokenizer.eos_token_id]
    room = max_length - len(response)
    cut = len(prompt) > room
    if cut:
        prompt = _without_middle(prompt, room, _frame_ids(written, tokenizer), max_length)
    return Encoded(prompt, response, cut, text, example, written, between)


def pair(prompt: str, response: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of prompt and response out of their joint text, the begin-of-text token in front if the model wants one.

    The border stands after as many ids as the prompt has alone. White space at its end goes with the response, with
    which tokenizers join it (not that of the template's header). Where a token lies across the border, it is learned.

    Args:
        prompt: Not empty.
        response: The separator first, if there is one.
    """
    header = generation_prompt(tokenizer)
    kept = prompt if header and prompt.endswith(header) else prompt.rstrip() or prompt
    whole, own = joint(prompt + response, tokenizer), joint(kept, tokenizer)
    border = len(own)
    if whole[:border] != own:
        border = min(border, _within(prompt, response, whole, tokenizer))
        if border <= 0:
            return own, tokenizer.encode(response, add_special_tokens=False)
    return whole[:border], whole[border:]


def joint(text: str, tokenizer: Any) -> list[int]:
    """Ids of a text: the tokens that the model wants in front, once, and never one at the end."""
    return list(_joint(text, tokenizer))


# An example and a benchmark's choices ask for the same prompt several times in a row.
@lru_cache(maxsize=8)
def _joint(text: str, tokenizer: Any) -> tuple[int, ...]:
    return tuple(led(tokenizer.encode(text, add_special_tokens=False), tokenizer))


def led(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """These ids with the tokens in front that the model wants, unless they have them."""
    front = leading(tokenizer)
    return list(ids) if list(ids[: len(front)]) == front else [*front, *ids]


@lru_cache(maxsize=8)
def leading(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts in front of a text: a begin-of-text token, or none."""
    own = list(tokenizer.encode("a", add_special_tokens=False))
    framed = list(tokenizer.encode("a"))
    return next((framed[:i] for i in range(len(framed)) if framed[i : i + len(own)] == own), [])


def _within(prompt: str, response: str, whole: list[int], tokenizer: Any) -> int:
    """How many of the joint ids lie wholly in the prompt."""
    if tokenizer.is_fast:
        encoding = tokenizer(prompt + response, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoding["offset_mapping"]]
        inside = next((i for i, end in enumerate(ends) if end > len(prompt)), len(ends))
        return inside + len(whole) - len(ends)
    own = joint(prompt, tokenizer)
    return next((i for i, (a, b) in enumerate(zip(whole, own, strict=False)) if a != b), min(len(whole), len(own)))


def _frame_ids(written: Rendered, tokenizer: Any) -> tuple[int, int]:
    """How many of the prompt's ids stand before the first message and after the last one."""
    start, stop = written.frame
    head = joint(written.prompt[:start], tokenizer) if start else leading(tokenizer)
    return len(head), len(joint(written.prompt, tokenizer)) - len(joint(written.prompt[:stop], tokenizer))


def _without_middle(ids: list[int], room: int, frame: tuple[int, int], max_length: int) -> list[int]:
    head, tail = frame
    kept = room - head - tail
    if kept < 1:
        raise TooLong(f"the response is longer than model.max_length ({max_length}) leaves room for")
    first = head + kept // 2
    return ids[:first] + ids[len(ids) - (room - first) :]


def _told(chat: str, first: str, response: str) -> str:
    """The messages as a chat template takes them, with these texts in the first and the last."""
    if not chat:
        return ""
    told = json.loads(chat)
    told["messages"][0]["content"] = first
    if not told["messages"][-1].get("tool_calls"):
        told["messages"][-1]["content"] = response
    return json.dumps(told, ensure_ascii=False)
