"""Conversations as files have them: roles of several dialects, contents in parts, calls of tools, ``[INST]``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.tasks.example import Example
from taskpgm_ray.tasks.values import as_text, is_empty

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "observation": "tool",
    "ipython": "tool",
    "function": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""What ShareGPT and others call those that chat templates call user, assistant and tool."""
_SPEAKERS = frozenset({"system", "developer", "user", "assistant", "tool"})
_SYSTEMS = frozenset({"system", "developer"})
_ASKING = _SYSTEMS | {"user"}
_SPOKEN = frozenset({"role", "content"})
_INST = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=\[INST\]|$)", re.DOTALL)
_SYSTEM = re.compile(r"<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_SYSTEM_PROMPT = re.compile(r"\s*\[SYSTEM_PROMPT\](.*?)\[/SYSTEM_PROMPT\]\s*", re.DOTALL)
_BEGIN, _END = re.compile(r"\A(\s*<s>)+|<s>(?=\s*\[INST\])"), "</s>"
"""The template's marks; ``<s>`` and ``</s>`` elsewhere are the text's."""


class NoExample(ValueError):
    """A row that is no example; the message says why."""


@dataclass(frozen=True)
class Conversation:
    """Messages in one spelling: each has ``role`` and ``content`` (text), and whatever else the file gives it."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[Any, ...] = ()

    def example(self, what: str, response: str | None = None) -> Example:
        """Everything before the last message is the prompt; the last one, or ``response`` after all, is learned.

        Raises:
            NoExample: There is no prompt, or the last message is not the assistant's or says nothing.
        """
        messages = list(self.messages)
        if response is not None:
            messages.append({"role": "assistant", "content": response})
        if len(messages) < 2 or messages[-1]["role"] != "assistant" or not said(messages[-1]).strip():
            raise NoExample(f"{what} must end with a non-empty assistant message after at least one other")
        turns = tuple((message["role"], said(message)) for message in messages[:-1])
        if not any(content.strip() for _, content in turns):
            raise NoExample("the prompt is empty")
        more = self.tools or any(message.keys() - _SPOKEN for message in messages)
        chat = as_text({"messages": messages, "tools": self.tools}) if more else ""
        return Example(turns, said(messages[-1]), chat)


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages, in any dialect; other lists of objects are data."""

    def is_one(message: Any) -> bool:
        role = _role(message) if isinstance(message, dict) else None
        said_by = ROLES.get((role or "").lower(), (role or "").lower()) in _SPEAKERS
        return said_by and bool({"content", "value", "tool_calls", "function_call"} & message.keys())

    return isinstance(value, list) and bool(value) and all(map(is_one, value))


def conversation(messages: Any, what: str, system: Any = None, tools: Any = None) -> Conversation:
    """Messages of any dialect in one spelling.

    Args:
        messages: Dictionaries with ``role`` and ``content``, or ``from`` and ``value``.
        what: The column, for errors.
        system: Text of a system message that stands in a column of its own.
        tools: Descriptions of tools, or JSON of them.

    Raises:
        NoExample: It is no list of messages, or one is of an unknown role.
    """
    if not isinstance(messages, list) or not all(isinstance(m, dict) and _role(m) is not None for m in messages):
        raise NoExample(f"{what} must be a list of {{role, content}}")
    spelled = [_message(message) for message in messages]
    strange = next((message["role"] for message in spelled if message["role"] not in _SPEAKERS), None)
    if strange is not None:
        # A template would write it as it is, and no model knows it.
        raise NoExample(
            f"{what} has a message of the role {strange!r}, which is none of {', '.join(sorted(_SPEAKERS))}; rename it"
        )
    if isinstance(system, str) and system.strip() and (not spelled or spelled[0]["role"] != "system"):
        spelled.insert(0, {"role": "system", "content": system})
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except ValueError:
            raise NoExample("`tools` is text that is no JSON") from None
    return Conversation(tuple(spelled), tuple(tools) if isinstance(tools, list) else ())


def answered(prompt: Conversation, answer: list[Any]) -> Conversation:
    """The prompt's conversation with the messages of an answer, which may repeat the prompt.

    Raises:
        NoExample: The answer is a conversation about something else.
    """
    rest = conversation(answer, "`completion`").messages
    if rest[0]["role"] in _ASKING:
        asked = [message for message in prompt.messages if message["role"] not in _SYSTEMS]
        own = [message for message in rest if message["role"] not in _SYSTEMS]
        heads = [[m for m in messages if m["role"] in _SYSTEMS] for messages in (prompt.messages, rest)]
        if _told(own[: len(asked)]) != _told(asked) or (all(heads) and _told(heads[0]) != _told(heads[1])):
            raise NoExample(
                "the response holds a conversation of its own, which does not begin with the prompt; name its column "
                "`messages`, or give a response that begins with the assistant"
            )
        return Conversation((*(heads[1] or heads[0]), *own), prompt.tools)
    return Conversation(prompt.messages + rest, prompt.tools)


def _told(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["role"], said(message).strip()) for message in messages]


def said(message: dict[str, Any]) -> str:
    """What a message says as plain text; calls of tools as JSON, one a line, after it."""
    calls = [as_text(_call(call)) for call in message.get("tool_calls") or []]
    return "\n".join([message["content"], *calls] if message["content"].strip() else calls or [message["content"]])


def from_inst(text: Any) -> Conversation:
    """A text with ``[INST] … [/INST]`` around each user turn, and maybe ``<<SYS>>`` in the first.

    Raises:
        NoExample: It has no such turn.
    """
    plain = _BEGIN.sub("", text) if isinstance(text, str) else ""
    turns = _INST.findall(plain)
    if not turns:
        raise NoExample("`text` has no [INST] … [/INST] that says where the response begins")
    messages: list[dict[str, Any]] = []
    before = plain.partition("[INST]")[0]
    if first := _SYSTEM_PROMPT.fullmatch(before):
        messages.append({"role": "system", "content": first[1].strip()})
    elif before.strip():
        raise NoExample(
            f"`text` begins with {before.strip()[:40]!r} in front of [INST], and it is not clear who says it; put it "
            "between [SYSTEM_PROMPT] and [/SYSTEM_PROMPT], or behind [INST]"
        )
    for user, assistant in turns:
        system = None if messages else _SYSTEM.search(user)
        if system:
            messages.append({"role": "system", "content": system[1].strip()})
        messages.append({"role": "user", "content": _SYSTEM.sub("", user).strip() if system else _unpadded(user)})
        messages.append({"role": "assistant", "content": _unpadded(_without_end(assistant))})
    return Conversation(tuple(messages))


def _without_end(text: str) -> str:
    """Without the mark of the end that nothing in the text opens."""
    while (bare := text.rstrip()).endswith(_END) and text.count(_END) > text.count("<s>"):
        text = bare.removesuffix(_END) + text[len(bare) :]
    return text


def _unpadded(text: str) -> str:
    """Without the one space that stands beside a mark."""
    return text.removeprefix(" ").removesuffix(" ")


def _role(message: dict[str, Any]) -> str | None:
    role = message.get("role") or message.get("from")
    return role if isinstance(role, str) else None


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role = str(_role(message))
    content = message["content"] if not is_empty(message.get("content")) else message.get("value")
    # Tables fill what a message lacks with null.
    more = {
        k: v for k, v in message.items() if k not in ("role", "from", "content", "value") and v not in (None, [], "")
    }
    spelled = {"role": ROLES.get(role.lower(), role.lower()), "content": _joined(content), **more}
    if role == "function_call":
        spelled |= {"content": "", "tool_calls": [{"type": "function", "function": _parsed(spelled["content"])}]}
    elif "function_call" in spelled:
        # OpenAI's older spelling, for one call.
        call = _parsed(spelled.pop("function_call"))
        spelled["tool_calls"] = [*spelled.get("tool_calls", []), {"type": "function", "function": call}]
    return spelled


def _joined(content: Any) -> str:
    """Content that comes in parts (``{"type": "text", "text": …}``) as one text."""
    if isinstance(content, list) and all(isinstance(part, (dict, str)) for part in content):
        strange = [p.get("type") for p in content if isinstance(p, dict) and not isinstance(p.get("text"), str)]
        if strange:
            raise NoExample(f"a message has a part of type {strange[0]!r}, which is no text")
        return "".join(part if isinstance(part, str) else part["text"] for part in content)
    return as_text(content)


def _call(call: Any) -> Any:
    """Name and arguments of a call, the arguments as an object."""
    function = call.get("function", call) if isinstance(call, dict) else call
    if isinstance(function, dict) and "arguments" in function:
        return {"name": function.get("name"), "arguments": _parsed(function["arguments"])}
    return function


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text
