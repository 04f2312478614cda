"""Whether a chat template wrote all of a conversation: templates leave out, without a word, what they do not know."""

from __future__ import annotations

import json
from typing import Any

from taskpgm_ray.tasks.conversations import NoExample

_THOUGHT = "</think>"


def check_prompt(prompt: str, messages: list[dict[str, Any]], tools: list[Any] | None) -> None:
    """Refuse a prompt in which a message, a call or a tool is missing; white space does not count.

    What an assistant thought in an earlier turn may be missing: templates leave it out on purpose.

    Raises:
        NoExample: It says what is missing.
    """
    text, place = _dense(prompt), 0
    for tool in tools or []:
        if (name := _name(tool)) and _dense(name) not in text:
            raise _left_out(f"the tool {name!r}")
    for message in messages:
        role, content = message["role"], message["content"]
        kept = content.rpartition(_THOUGHT)[2] if role == "assistant" else content
        # A system message may stand inside the first or the last question; the others follow each other.
        start = 0 if role == "system" else place
        end = _end(text, kept, start)
        if end < 0:
            raise _left_out(f"the message of the role {role!r} that begins with {content[:40]!r}")
        for name in _called(message):
            if (called := _end(text, name, start)) < 0:
                raise _left_out(f"the call of {name!r}")
            end = max(end, called)
        place = place if role == "system" else end


def check_reply(response: str, reply: dict[str, Any]) -> None:
    """Refuse a response in which a part of the reply, or one of its calls, is missing; white space does not count.

    Raises:
        NoExample: It says what is missing.
    """
    text = _dense(response)
    if _end(text, reply["content"], 0) < 0:
        raise _left_out(f"a part of the reply that begins with {reply['content'][:40]!r}")
    for name in _called(reply):
        if _end(text, name, 0) < 0:
            raise _left_out(f"the reply's call of {name!r}")


def _left_out(what: str) -> NoExample:
    return NoExample(
        f"the model's chat template leaves out {what}; use a model whose template writes it, or, where there is one "
        "question only, model.prompt_format=plain"
    )


def _end(text: str, piece: str, start: int) -> int:
    """Where a piece ends in the text, as it is or as JSON has it inside of quotes; -1 where it is not there."""
    for spelling in (piece, json.dumps(piece, ensure_ascii=False)[1:-1]):
        dense = _dense(spelling)
        found = text.find(dense, start)
        if found >= 0:
            return found + len(dense)
    return -1


def _dense(text: str) -> str:
    return "".join(text.split())


def _called(message: dict[str, Any]) -> list[str]:
    """Names of the functions that a message calls."""
    return [name for name in map(_name, message.get("tool_calls") or []) if name]


def _name(tool: Any) -> str:
    """The name in the description of a tool, or in a call of it; empty where it has none."""
    function = tool.get("function", tool) if isinstance(tool, dict) else tool
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""
