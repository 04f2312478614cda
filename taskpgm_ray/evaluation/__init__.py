"""Evaluation: MMLU and BIG-Bench-Hard through lm-eval on the engine pool, in a search and a report split.

`prepare` writes the two splits, `evaluate` scores one of them. Importing this package is cheap: lm-eval, torch and
datasets are imported when something is evaluated.
"""

from taskpgm_ray.evaluation.run import evaluate
from taskpgm_ray.evaluation.scores import ItemScore, summarise
from taskpgm_ray.evaluation.splits import EvaluationSets, Split, prepare
from taskpgm_ray.evaluation.token_scorer import NextToken, TokenScorer

__all__ = [
    "EvaluationSets",
    "ItemScore",
    "NextToken",
    "Split",
    "TokenScorer",
    "evaluate",
    "prepare",
    "summarise",
]
