"""What may answer a BBH question: a closed set of answers, where the question has one.

A closed question is scored as MMLU's are: the right answer's probability among all that are possible, so that a task of
one-letter answers and a task of sentences add up to something.
"""

from __future__ import annotations

import re

_OPTION = re.compile(r"^\(([A-Z])\)", re.MULTILINE)
_WORDS = (("True", "False"), ("Yes", "No"), ("yes", "no"), ("valid", "invalid"), ("plausible", "implausible"))
"""The words that answer a question without options; a target that is one of a pair belongs to it."""


def closed_answers(question: str, target: str) -> tuple[str, ...] | None:
    """All answers that a BBH question allows, the right one among them; ``None``: it is open (a number, a list)."""
    options = tuple(dict.fromkeys(f"({letter})" for letter in _OPTION.findall(question)))
    if len(options) > 1:
        # A few items have been damaged in the benchmark: their target is the option's text.
        return options if target in options else (*options, target)
    return next((pair for pair in _WORDS if target in pair), None)
