"""One tokenisation: the same function makes the token ids for training, scoring and held-out loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.sources import Example


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; the response ends with the end-of-sequence token, which is learned and scored."""

    prompt: list[int]
    response: list[int]
    cut: bool
    """Whether the prompt lost tokens on its left to fit into the maximal length."""


def prompt_text(example: Example, prompt_format: Literal["plain", "chat"], where: str) -> str:
    """The prompt as plain text: what a reader, or a text affinity, compares.

    Raises:
        DataError: A conversation of several turns in the plain format, which has no way to write turns.
    """
    if prompt_format == "plain" and (len(example.turns) != 1 or example.turns[0][0] != "user"):
        raise DataError(f"{where}: a conversation of several turns needs model.prompt_format=chat")
    return "\n\n".join(content for _, content in example.turns)


def encode(
    example: Example, tokenizer: Any, prompt_format: Literal["plain", "chat"], max_length: int, where: str
) -> Encoded | None:
    """Token ids of one example, or ``None`` when the response alone does not fit into ``max_length``.

    In the plain format the response follows the prompt after one space. Prompt and response are tokenised apart, so
    that no token spans the border: the scored tokens are then the same whatever the prompt ends with.

    Raises:
        DataError: The chat template is missing or refuses the conversation, the format does not fit (see
            `prompt_text`), or the prompt is empty.
    """
    if prompt_format == "chat":
        prompt = _chat_prompt(example, tokenizer, where)
        response = tokenizer.encode(example.response, add_special_tokens=False)
    else:
        prompt = tokenizer.encode(prompt_text(example, prompt_format, where).rstrip())
        response = tokenizer.encode(" " + example.response, add_special_tokens=False)
    if not prompt:
        raise DataError(f"{where}: the prompt is empty; remove the example")
    response = [*response, tokenizer.eos_token_id]
    room = max_length - len(response)
    if room < 1:
        return None
    return Encoded(prompt[-room:], response, cut=len(prompt) > room)


def _chat_prompt(example: Example, tokenizer: Any, where: str) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(f"{where}: model.prompt_format is chat, but the model has no chat template; use plain")
    messages = [{"role": role, "content": content} for role, content in example.turns]
    try:
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    except Exception as error:  # templates are programs (jinja2) and raise whatever they like
        raise DataError(f"{where}: the model's chat template refuses this conversation: {error}") from error
    return list(encoded["input_ids"])
