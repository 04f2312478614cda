"""Examples of the pool that repeat what a study is evaluated on, found in two ways.

A question of ten words or more is found by any ten of them in a row: Brown et al. (2020) take 13, Chowdhery et al.
(2022) eight to fifteen. Ten are long enough that common phrases do not match and short enough that a question is found
inside another prompt. A shorter question, of which MMLU and BBH have many, is found whole. Since many of those are
phrases that other questions share ("Which of the following is correct?"), its right answer must be there too, unless
the prompt is the question and nothing else.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from taskpgm_ray.storage import fingerprint

RUN = 10
"""Words in a row that two texts must share."""
TOKEN = re.compile(r"[^\W_]+|[^\w\s.,:;!?\"'`\u2018-\u201f\u2026]")
"""A word, or a sign that is more than punctuation: "not ( True )" and "2 - -3" are other questions without theirs."""


@dataclass(frozen=True)
class EvaluationTexts:
    """What all evaluation items ask, in the form in which it is looked for."""

    runs: frozenset[int]
    """Of their runs of words hashes that are the same in every process."""
    identity: str
    """Changes with the runs, so that tasks are prepared again when they do."""
    short: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Questions with no run, as tokens with one space between, and the right answers of each likewise."""

    @staticmethod
    def of(items: Iterable[tuple[str, str]]) -> EvaluationTexts:
        """What these (question, right answer) ask."""
        runs, short = set[int](), defaultdict[str, set[str]](set)
        for question, answer in items:
            found = set(_runs(question))
            runs |= found
            if not found and (tokens := _tokens(question)):
                short[" ".join(tokens)].add(" ".join(_tokens(answer)))
        answers = {question: frozenset(right) for question, right in short.items()}
        return EvaluationTexts(frozenset(runs), fingerprint(sorted(runs)), answers)

    @cached_property
    def short_identity(self) -> str:
        """Changes with the short questions and their answers."""
        return fingerprint(sorted((question, sorted(right)) for question, right in self.short.items()))

    def shares_a_run_with(self, text: str) -> bool:
        """Whether ``RUN`` words in a row of the text, whatever their case and punctuation, occur in an item."""
        return bool(self.runs) and any(run in self.runs for run in _runs(text))

    def holds_short(self, prompt: str, response: str) -> bool:
        """Whether an example has a short question in it with its right answer, or asks nothing but a short question."""
        if not self.short:
            return False
        asked, said = _tokens(prompt), _tokens(response)
        if " ".join(asked) in self.short:
            return True
        tokens = asked + said
        everything = f" {' '.join(tokens)} "
        for start, token in enumerate(tokens):
            for length in self._lengths.get(token, ()):
                question = " ".join(tokens[start : start + length])
                if any(f" {right} " in everything for right in self.short.get(question, ())):
                    return True
        return False

    @cached_property
    def _lengths(self) -> dict[str, set[int]]:
        """First token -> lengths of the short questions that begin with it: few places of a text are looked up."""
        lengths = defaultdict[str, set[int]](set)
        for question in self.short:
            tokens = question.split(" ")
            lengths[tokens[0]].add(len(tokens))
        return dict(lengths)


NOTHING = EvaluationTexts(frozenset(), "")


def _tokens(text: str) -> list[str]:
    return TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def _runs(text: str) -> Iterator[int]:
    words = re.findall(r"\w+", text.casefold())
    for start in range(len(words) - RUN + 1):
        # Not `hash`: it is salted anew in every process.
        digest = hashlib.blake2b(" ".join(words[start : start + RUN]).encode(), digest_size=8).digest()
        yield int.from_bytes(digest, "big")
