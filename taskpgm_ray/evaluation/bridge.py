"""lm-eval's model interface over an engine: text requests in, token requests out.

Importing this module imports lm-eval; `taskpgm_ray.evaluation.run` does so when something is evaluated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from taskpgm_ray.config import MOST_TOKENS
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation.token_scorer import NextToken, TokenScorer
from taskpgm_ray.tasks.chat import TODAY, lead_in
from taskpgm_ray.tasks.tokens import joint, pair

_log = logging.getLogger(__name__)


class EngineLM(TemplateLM):
    """An lm-eval model whose log-probabilities and texts come from a `TokenScorer`.

    Tokens are those of `taskpgm_ray.tasks.tokens`, as in training; they, and truncation, are those of lm-eval's Hugging
    Face model wherever its own keep the text, so that the scores are, too. A continuation of k tokens is k next-token
    requests (context, context + 1 token, ...); requests after the same prompt are one, so the
    four lettered choices of an MMLU question cost one.

    Args:
        client: The engine under one adapter.
        tokenizer: The Hugging Face tokenizer of its base model.
        max_length: Longest prompt in tokens. Longer ones lose tokens on the left; `truncated` counts them.
        max_gen_toks: Tokens generated at most where a task does not say.
    """

    def __init__(self, client: TokenScorer, tokenizer: Any, *, max_length: int = 2047, max_gen_toks: int = 256) -> None:
        super().__init__()
        self.client = client
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_gen_toks = max_gen_toks
        self.truncated = 0
        self._gap = ""

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the begin-of-text token, or else the end-of-text token."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """A name of the tokenizer that may stand in a file name."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; by default one begin-of-text token in front if the model wants one, and nothing at the end."""
        if add_special_tokens is None:
            return joint(string, self.tokenizer)
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return pair(context, continuation, self.tokenizer)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the model's chat template writes it, up to where the text of a reply begins."""

        def render(messages: list[dict[str, str]]) -> str:
            written = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **TODAY,
            )
            return f"{written}{self._gap}" if add_generation_prompt else str(written)

        self._gap = lead_in(self.tokenizer)

        try:
            return render(chat_history)
        except TemplateError:
            if not any(message["role"] == "system" for message in chat_history):
                raise
            _log.warning("the chat template takes no system message: task descriptions are left out of the prompts")
            return render([message for message in chat_history if message["role"] != "system"])

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether greedy decoding gives it) of each (context, continuation)."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        """The same for (_, context ids, continuation ids), in one call of the client."""
        steps = [self._steps(context, continuation) for _, context, continuation in requests]
        wanted: dict[tuple[int, ...], dict[int, float]] = {}
        for step in steps:
            for prompt, token in step:
                wanted.setdefault(prompt, {})[token] = np.nan
        greedy = self._ask(wanted) if wanted else {}
        return [
            (
                float(sum(wanted[prompt][token] for prompt, token in step)),
                all(greedy[prompt] == token for prompt, token in step),
            )
            for step in steps
        ]

    def _steps(self, context: list[int], continuation: list[int]) -> list[tuple[tuple[int, ...], int]]:
        """(prompt, next token) for each token of the continuation."""
        if not context or not continuation:
            raise EvaluationError(
                f"a request has {len(context)} context and {len(continuation)} continuation tokens; both need at least "
                "one (is a target of the task empty?)"
            )
        if len(continuation) > self.max_length:
            raise EvaluationError(
                f"a continuation of {len(continuation)} tokens is longer than max_length {self.max_length}"
            )
        window = (context + continuation)[-(self.max_length + 1) :]
        self.truncated += len(window) < len(context) + len(continuation)
        start = len(window) - len(continuation)
        return [(tuple(window[:position]), window[position]) for position in range(start, len(window))]

    def _ask(self, wanted: dict[tuple[int, ...], dict[int, float]]) -> dict[tuple[int, ...], int]:
        """Fill in the log-probability of each (prompt, token); returns the greedy token after each prompt."""
        asked = [
            (prompt, ids[start : start + MOST_TOKENS])
            for prompt, ids in ((prompt, list(tokens)) for prompt, tokens in wanted.items())
            for start in range(0, len(ids), MOST_TOKENS)
        ]
        answer = self.client.next_token([list(prompt) for prompt, _ in asked], [ids for _, ids in asked])
        _check(answer, [len(ids) for _, ids in asked])
        for (prompt, ids), values in zip(asked, answer.logprobs, strict=True):
            wanted[prompt].update(zip(ids, values.tolist(), strict=True))
        return {prompt: token for (prompt, _), token in zip(asked, answer.greedy, strict=True)}

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each whole text, in nats; texts longer than `max_length` in disjoint windows."""
        windows = [
            [
                (None, *make_disjoint_window(window))
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        scores = iter(self._loglikelihood_tokens([window for of_text in windows for window in of_text]))
        return [sum(next(scores)[0] for _ in of_text) for of_text in windows]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Greedy text after each context, up to one of its stop strings; one client call per distinct setting."""
        eos = self.tokenizer.decode(self.eot_token_id)
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            settings = normalize_gen_kwargs(request.args[1], self.max_gen_toks)
            if settings.get("do_sample") or settings.get("temperature"):
                raise EvaluationError(
                    f"a task wants sampled text ({request.args[1]}); the engine is greedy: set do_sample=false"
                )
            until = settings.get("until") or []
            stop = tuple([until] if isinstance(until, str) else until)
            groups.setdefault((settings["max_gen_toks"], stop), []).append(index)
        texts = [""] * len(requests)
        for (max_tokens, stop), members in groups.items():
            prompts = [self.prompt_ids(requests[index].args[0], max_tokens) for index in members]
            for index, text in zip(members, self.client.generate(prompts, max_tokens, list(stop)), strict=True):
                # Engines differ in whether the text ends before or after the stop string.
                texts[index] = _cut(text, (*stop, eos))
        return texts

    def prompt_ids(self, context: str, max_tokens: int) -> list[int]:
        """Token ids of a prompt that leaves room for so many tokens of an answer.

        Raises:
            EvaluationError: There is no such room.
        """
        room = self.max_length - max_tokens
        if room < 1:
            raise EvaluationError(
                f"{max_tokens} tokens to generate leave no prompt within max_length {self.max_length}"
            )
        # A space that the chat template puts between prompt and reply is one token with the reply's first word.
        asked = context.removesuffix(self._gap) if self._gap.isspace() else context
        ids = self.tok_encode(asked) or [self.prefix_token_id]
        self.truncated += len(ids) > room
        return ids[-room:]


def _check(answer: NextToken, sizes: list[int]) -> None:
    """Refuse answers that do not fit the requests, or are no log-probabilities."""
    if len(answer.logprobs) != len(sizes) or len(answer.greedy) != len(sizes):
        raise EvaluationError(
            f"{len(sizes)} requests, but the engine gave {len(answer.logprobs)} rows and {len(answer.greedy)} tokens"
        )
    for row, (values, size) in enumerate(zip(answer.logprobs, sizes, strict=True)):
        if np.shape(values) != (size,):
            raise EvaluationError(f"request {row}: {size} tokens were asked for, the engine gave {np.shape(values)}")
        if not np.all(np.isfinite(values)) or np.max(values) > 1e-3:
            raise EvaluationError(f"request {row}: {values} are no log-probabilities (finite, at most 0)")


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text
