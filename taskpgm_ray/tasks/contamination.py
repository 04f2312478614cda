"""Examples of the pool that repeat what a study is evaluated on: found by runs of ten words, and dropped.

Ten words (Brown et al. 2020 take 13, Chowdhery et al. 2022 eight to fifteen) are long enough that common phrases do
not match and short enough that a question is found inside another prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from taskpgm_ray.storage import fingerprint

RUN = 10
"""Words in a row that two texts must share."""


@dataclass(frozen=True)
class EvaluationTexts:
    """The runs of words of all evaluation items, as hashes that are the same in every process."""

    runs: frozenset[int]
    identity: str
    """Changes with the texts, so that tasks are prepared again when they do."""

    @staticmethod
    def of(texts: Iterable[str]) -> EvaluationTexts:
        """The runs of these texts."""
        runs = frozenset(run for text in texts for run in _runs(text))
        return EvaluationTexts(runs, fingerprint(sorted(runs)))

    def shares_a_run_with(self, text: str) -> bool:
        """Whether ``RUN`` words in a row of the text, whatever their case and punctuation, occur in an item."""
        return bool(self.runs) and any(run in self.runs for run in _runs(text))


NOTHING = EvaluationTexts(frozenset(), "")


def _runs(text: str) -> Iterator[int]:
    words = re.findall(r"\w+", text.casefold())
    for start in range(len(words) - RUN + 1):
        # Not `hash`: it is salted anew in every process.
        digest = hashlib.blake2b(" ".join(words[start : start + RUN]).encode(), digest_size=8).digest()
        yield int.from_bytes(digest, "big")
