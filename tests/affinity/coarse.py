"""Distributions of models on a common support, and their divergences by scipy."""

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax


def coarse(n, positions, cells, seed=0, vocabulary=200):
    rng = np.random.default_rng(seed)
    full = log_softmax(rng.normal(size=(n, positions, vocabulary)) * 2.5, axis=-1)
    top = np.argsort(-full.mean(0), axis=-1)[:, :cells]
    return full, np.take_along_axis(full, top[None], axis=2)


def scipy_jsd(p, w):
    n = len(p)
    d = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            d[i, j] = d[j, i] = w @ [jensenshannon(a, b) ** 2 for a, b in zip(p[i], p[j], strict=True)]
    return d
