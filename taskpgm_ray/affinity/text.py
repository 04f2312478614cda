"""A comparator: similarity of the tasks' texts, where TaskPGM compares what models do ("semantic, not functional")."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray


def text_affinity(texts: Sequence[Sequence[str]], *, max_features: int = 50_000) -> FloatArray:
    """Cosine similarity of the mean TF-IDF vectors of the tasks -> S [n, n], PSD with unit diagonal.

    Args:
        texts: the examples of each task, as text.
        max_features: most words and word pairs that are counted.

    Raises:
        InputError: a task without text.
    """
    for i, examples in enumerate(texts):
        if isinstance(examples, str):
            raise InputError(f"task {i} is one string; give a list of its examples")
        if not any(example.strip() for example in examples):
            raise InputError(f"task {i} has no text")
    if not texts:
        raise InputError("no tasks were given")
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=max_features, token_pattern=r"\S+")
    features = vectoriser.fit_transform([example for examples in texts for example in examples])
    edges = np.cumsum([0, *(len(examples) for examples in texts)])
    means = np.vstack([np.asarray(features[a:b].mean(axis=0)) for a, b in pairwise(edges)])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    S = unit @ unit.T
    S = (S + S.T) / 2
    np.fill_diagonal(S, 1.0)
    return np.asarray(S)
