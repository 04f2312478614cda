"""Marks of begin and end that a file's texts carry, and control tokens inside them: taken off, or the row refused.

A tokenizer makes the control token of what spells one, wherever it stands: a text about ``<|im_end|>`` would end its
turn there, and a prompt with ``<s>`` in front would begin twice.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from taskpgm_ray.tasks.conversations import NoExample

BEGIN, END = "<s>", "</s>"
"""What files carry whichever model they are for."""
_INST = re.compile(r"\s*\[INST\].*\[/INST\]\s*", re.DOTALL)


def without_begin(prompt: str, begin: str | None) -> str:
    """The prompt without the begin-of-text marks in front of it: the model's own (``begin``) and `BEGIN`."""
    marks = tuple(mark for mark in (begin, BEGIN) if mark)
    # <s>text</s> is also HTML.
    while prompt.startswith(marks) and not (prompt.startswith(BEGIN) and END in prompt):
        prompt = prompt.removeprefix(next(mark for mark in marks if prompt.startswith(mark)))
    return prompt


def without_end(response: str, controls: re.Pattern[str] | None = None) -> str:
    """The response without the control tokens, and without an `END` that nothing opens, at its end."""
    while True:
        bare = response.rstrip()
        ends = [match.start() for match in controls.finditer(bare) if match.end() == len(bare)] if controls else []
        if not ends and bare.endswith(END) and response.count(END) > response.count(BEGIN):
            ends = [len(bare) - len(END)]
        if not ends:
            return response
        response = bare[: ends[0]]


def refuse_controls(text: str, tokenizer: Any) -> None:
    """Refuse a row whose text spells a control token of the model.

    Raises:
        NoExample: It names the token.
    """
    pattern = controls(tokenizer)
    found = pattern.search(text) if pattern else None
    if found:
        raise NoExample(
            f"it holds {found[0]!r}, which is a control token of the model; spell it otherwise, or take it out where a "
            "template has written it (with model.prompt_format=chat the model's own template does)"
        )


def refuse_templated(prompt: str) -> None:
    """Refuse, in the chat format, a prompt that a chat template has written already: it would be asked twice over.

    Raises:
        NoExample: Its whole text stands between ``[INST]`` and ``[/INST]``.
    """
    if _INST.fullmatch(prompt):
        raise NoExample(
            "the prompt stands in a chat template already ([INST]); take it out, or use model.prompt_format=plain"
        )


@lru_cache(maxsize=8)
def controls(tokenizer: Any) -> re.Pattern[str] | None:
    """Whatever text becomes a control token; the token for unknown text is none."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    spelled = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    spelled -= {tokenizer.unk_token}
    longest_first = sorted(filter(None, spelled), key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
