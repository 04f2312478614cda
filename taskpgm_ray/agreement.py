"""Proof, on samples, that training, evaluation and exported lines give the model the same token ids.

Training and scoring read what `taskpgm_ray.tasks.tokens.encode` makes. The other sides are made here as they make it:
lm-eval's requests by the bridge, and exported lines as a trainer tokenises them, with the tokenizer's own methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from taskpgm_ray.errors import DataError
from taskpgm_ray.export.examples import completion
from taskpgm_ray.tasks.chat import TODAY
from taskpgm_ray.tasks.conversations import NoExample
from taskpgm_ray.tasks.example import Row
from taskpgm_ray.tasks.tokens import Encoded, encode, leading, led

SAMPLES = 8
"""Examples of a task, and requests of a benchmark's task, that are compared."""
WHOLE = 1_000_000
"""Tokens: what is compared is not cut."""


class Agreement:
    """Compares the sides for one tokenizer and one format.

    Args:
        tokenizer: The base model's.
        prompt_format: ``model.prompt_format``.
        separator: ``pool.separator``.
    """

    def __init__(self, tokenizer: Any, prompt_format: Literal["plain", "chat"], separator: str | None = None) -> None:
        # lm-eval takes seconds to import.
        from taskpgm_ray.evaluation.bridge import EngineLM

        self.tokenizer, self.prompt_format, self.separator = tokenizer, prompt_format, separator
        self.bridge = EngineLM(_NoEngine(), tokenizer)
        self.compared = 0

    def examples(self, task: str, rows: Iterable[Row]) -> None:
        """Compare the first `SAMPLES` examples of a task that can be used.

        Raises:
            DataError: Two sides differ; it says for which row, and how.
        """
        usable = 0
        for row in rows:
            where = f"task {task!r}, {row.where}"
            try:
                trained = encode(row.example, self.tokenizer, self.prompt_format, WHOLE, where, self.separator)
            except NoExample:
                continue
            self._one_begin_and_one_end(trained, where)
            ids = trained.prompt + trained.response
            self._same(ids, self.exported(trained), "an exported line gives", where)
            # The end is learned, but no benchmark asks for it.
            context, answer = self.asked(trained)
            self._same(ids[:-1], context + answer, "lm-eval asks for", where)
            if self.prompt_format == "plain":
                self._same(trained.prompt, context, "lm-eval asks after", where)
            usable += 1
            if usable == SAMPLES:
                break
        self.compared += usable

    def requests(self, tasks: Iterable[Any]) -> None:
        """Compare the first requests of lm-eval's tasks with the tokenizer's own ids of their text.

        Raises:
            DataError: They differ.
        """
        chat = self.prompt_format == "chat"
        for task in tasks:
            task.build_requests(self.bridge, chat, SAMPLES)
            for request in task.instances[:SAMPLES]:
                context, answer = request.args[0], request.args[1]
                if isinstance(answer, str) and context:
                    before, after = self.bridge._encode_pair(context, answer)
                    self._same(self.natural(context + answer), before + after, "lm-eval asks", str(task.config.task))
                    self.compared += 1

    def asked(self, trained: Encoded) -> tuple[list[int], list[int]]:
        """The ids of lm-eval's request with this prompt and this answer."""
        if self.prompt_format == "plain":
            return self.bridge._encode_pair(trained.text, trained.separator + trained.example.response)
        context = self.bridge.apply_chat_template(trained.example.messages()) if not trained.example.chat else None
        if context is None:  # lm-eval has no tools
            context = trained.written.prompt
        end = self.tokenizer.convert_ids_to_tokens(trained.response[-1])
        answer = (trained.written.prompt + trained.written.response).removesuffix(end)
        return self.bridge._encode_pair(context, answer[len(context) :])

    def exported(self, trained: Encoded) -> list[int]:
        """The ids that a trainer makes of the exported line, up to its end of turn or of sequence."""
        example, size = trained.example, len(trained.prompt) + len(trained.response)
        if self.prompt_format == "plain":
            written = trained.text + completion(trained.text, example.response, self.separator)
            return [*self.natural(written), self.tokenizer.eos_token_id]
        messages = [*example.messages(), example.reply()]
        told = self.tokenizer.apply_chat_template(
            messages, tools=example.tools(), tokenize=True, return_dict=True, **TODAY
        )
        ids = led(told["input_ids"], self.tokenizer)
        return ids[:size] if trained.written.ended else [*ids, self.tokenizer.eos_token_id]

    def natural(self, text: str) -> list[int]:
        """What the tokenizer itself makes of a text, without an end that it adds."""
        if self.prompt_format == "chat":
            return led(self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer)
        # What an empty text is framed with, less what stands in front, stands at the end.
        frame = len(self.tokenizer("")["input_ids"]) - len(leading(self.tokenizer))
        ids = list(self.tokenizer(text)["input_ids"])
        return ids[: len(ids) - frame]

    def _one_begin_and_one_end(self, trained: Encoded, where: str) -> None:
        begin, end = self.tokenizer.bos_token_id, trained.response[-1]
        begins = next((i for i, token in enumerate(trained.prompt) if token != begin), len(trained.prompt))
        if begins > 1 or (begin in leading(self.tokenizer) and begins != 1):
            raise DataError(f"{where}: {begins} begin-of-text tokens in front of {trained.prompt[begins:][:6]}")
        if trained.response.count(end) != 1:
            raise DataError(f"{where}: the token {end} that ends it stands in it more than once: {trained.response}")

    def _same(self, one: Sequence[int], other: Sequence[int], who: str, where: str) -> None:
        if list(one) == list(other):
            return
        pairs = enumerate(zip(one, other, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
        told = [self.tokenizer.convert_ids_to_tokens(list(side[at : at + 6])) for side in (one, other)]
        raise DataError(
            f"{where}: the same text has different tokens: from token {at} on {told[0]} by itself, but {who} {told[1]}"
        )


class _NoEngine:
    """Nothing is scored here."""

    def next_token(self, prompts: list[list[int]], tokens: list[list[int]]) -> Any:
        """Not asked for."""
        raise NotImplementedError

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """Not asked for."""
        raise NotImplementedError
