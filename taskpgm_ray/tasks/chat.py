"""A conversation as the model's chat template writes it: the prompt, and the reply up to its end of turn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.arrived import check_prompt, check_reply
from taskpgm_ray.tasks.conversations import NoExample, said
from taskpgm_ray.tasks.example import Example
from taskpgm_ray.tasks.marks import controls

TODAY = {"strftime_now": datetime(2024, 7, 26).strftime}
"""For templates that write the date: always one, or what is prepared, trained and asked on two days would differ. It is
the day that Llama 3's template takes where it is told none."""
QUESTION, ANSWER = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
"""By which a template shows what it writes around them."""


@dataclass(frozen=True)
class Rendered:
    """Both sides of an example as text."""

    prompt: str
    """With the header of the reply, as the model is asked."""
    response: str
    """With the template's end of turn, where it writes a control token there."""
    ended: bool
    """Whether it does."""
    frame: tuple[int, int]
    """Where in the prompt the messages begin and end [characters]; what stands around them is the template's."""


def render(example: Example, tokenizer: Any, where: str) -> Rendered:
    """Both sides of a conversation.

    Raises:
        DataError: The model has no chat template.
        NoExample: The template refuses the conversation, writes another reply than it has, or leaves out a part.
    """
    require_template(tokenizer, where)
    messages, reply, tools = example.messages(), example.reply(), example.tools()
    prompt = _write(tokenizer, messages, tools, add_generation_prompt=True)
    whole = _write(tokenizer, [*messages, reply], tools, add_generation_prompt=False)
    response, ended = _up_to_its_end(_reply(prompt, whole, said(reply)), tokenizer)
    check_prompt(prompt, messages, tools)
    check_reply(response, reply)
    return Rendered(prompt, response, ended, _frame(prompt, messages))


def require_template(tokenizer: Any, where: str) -> None:
    """Refuse a model without a chat template; ``where`` begins the message.

    Raises:
        DataError: It has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(f"{where}: model.prompt_format is chat, but the model has no chat template; use plain")


def generation_prompt(tokenizer: Any) -> str:
    """What the template writes in front of a reply: ``<|im_start|>assistant`` and a line break, for example.

    Empty where it writes nothing, or there is no template.
    """
    return _header(tokenizer, str(getattr(tokenizer, "chat_template", None) or ""))


@lru_cache(maxsize=8)
def _header(tokenizer: Any, template: str) -> str:
    if not template:
        return ""
    try:
        asked = _write(tokenizer, [QUESTION], None, add_generation_prompt=True)
        return asked.removeprefix(_write(tokenizer, [QUESTION], None, add_generation_prompt=False))
    except NoExample:
        return ""


def lead_in(tokenizer: Any) -> str:
    """What the template writes between a prompt and the text of a reply: a space, or an empty block of thoughts."""
    return _lead_in(tokenizer, str(tokenizer.chat_template or ""))


@lru_cache(maxsize=8)
def _lead_in(tokenizer: Any, template: str) -> str:
    if not template:
        return ""
    try:
        asked, told = _asked_and_told(tokenizer)
    except NoExample:
        return ""
    return told[len(asked) :].partition(ANSWER["content"])[0] if told.startswith(asked) else ""


def end_of_turn(tokenizer: Any) -> int | None:
    """The control token by which the template ends a reply; ``None`` where it writes none, or there is no template.

    It may be another one than the end of the sequence, which a model that talks may never say.
    """
    return _end_of_turn(tokenizer, str(getattr(tokenizer, "chat_template", None) or ""))


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: Any, template: str) -> int | None:
    pattern = controls(tokenizer)
    if not template or pattern is None:
        return None
    try:
        asked, told = _asked_and_told(tokenizer)
        reply, ended = _up_to_its_end(_reply(asked, told, ANSWER["content"]), tokenizer)
    except NoExample:
        return None
    return int(tokenizer.convert_tokens_to_ids(pattern.findall(reply)[-1])) if ended else None


def _asked_and_told(tokenizer: Any) -> tuple[str, str]:
    """What the template makes of a question, and of the same with its answer; `NoExample` where it refuses them."""
    asked = _write(tokenizer, [QUESTION], None, add_generation_prompt=True)
    return asked, _write(tokenizer, [QUESTION, ANSWER], None, add_generation_prompt=False)


def _write(tokenizer: Any, messages: list[dict[str, Any]], tools: Any, **options: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **TODAY, **options))
    except Exception as error:  # templates are programs (jinja2) and raise whatever they like
        raise NoExample(f"the model's chat template refuses this conversation: {error}") from error


def _reply(prompt: str, whole: str, content: str) -> str:
    """What follows the prompt once the reply is there."""
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    # Some templates ask with more than they keep (an opened <think>): then the reply and what they write after it.
    for spelling in (content, content.strip()):
        start = whole.rfind(spelling) if spelling else -1
        if start >= 0:
            return whole[start:]
    raise NoExample("the model's chat template changes the reply, so that it cannot be told from the prompt")


def _up_to_its_end(text: str, tokenizer: Any) -> tuple[str, bool]:
    """The reply up to the control token that ends its turn, if one does."""
    pattern = controls(tokenizer)
    ends = [match.end() for match in pattern.finditer(text)] if pattern else []
    if ends and not text[ends[-1] :].strip():
        return text[: ends[-1]], True
    return text, False


def _frame(prompt: str, messages: list[dict[str, Any]]) -> tuple[int, int]:
    """Where the first message's content begins and the last one's ends."""
    first, last = said(messages[0]).strip(), said(messages[-1]).strip()
    start, stop = prompt.find(first), prompt.rfind(last)
    return max(start, 0), stop + len(last) if stop >= 0 else len(prompt)
