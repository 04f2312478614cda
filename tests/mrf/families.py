"""Similarity matrices of all kinds that users bring, from a seed."""

import numpy as np


def gram(n, rng):
    X = rng.normal(size=(n, n + 3))
    S = X @ X.T / (n + 3)
    d = np.sqrt(np.diag(S))
    return S / np.outer(d, d)


def gaussian(n, rng, dim=3, width=0.4):
    X = rng.normal(size=(n, dim))
    return np.exp(-width * ((X[:, None] - X[None]) ** 2).sum(-1))


def nearly_singular(n, rng):
    return gaussian(n, rng, dim=2, width=0.05)


def jsd_kernel(n, rng):
    P = rng.dirichlet(np.full(8, 0.5), size=(n, 12)) + 1e-12
    M = (P[:, None] + P[None]) / 2
    H = lambda Q: -(Q * np.log(Q)).sum(-1)  # noqa: E731
    D = (H(M) - (H(P)[:, None] + H(P)[None]) / 2).mean(-1)
    np.fill_diagonal(D, 0.0)
    D = np.maximum((D + D.T) / 2, 0)
    return np.exp(-8 * D)


def duplicates(n, rng):
    base = jsd_kernel(max(2, n - n // 3), rng)
    index = np.concatenate([np.arange(len(base)), rng.integers(0, len(base), size=n - len(base))])
    return base[np.ix_(index, index)]


def near_duplicates(n, rng):
    X = rng.normal(size=(n, 4))
    half = n // 2
    X[half:] = X[: n - half] + rng.choice([1e-2, 1e-4, 1e-6]) * rng.normal(size=(n - half, 4))
    return np.exp(-0.3 * ((X[:, None] - X[None]) ** 2).sum(-1))


def low_rank(n, rng):
    X = rng.normal(size=(n, max(1, n // 3)))
    return X @ X.T


def negative_distance(n, rng):
    X = rng.normal(size=(n, max(1, n // 2)))
    return -((X[:, None] - X[None]) ** 2).sum(-1)


FAMILIES = {
    f.__name__: f
    for f in (
        gram,
        gaussian,
        nearly_singular,
        jsd_kernel,
        duplicates,
        near_duplicates,
        low_rank,
        negative_distance,
    )
}


def options(kind, n, rng):
    """Keyword arguments of solve for one of the variants."""
    if kind == "plain":
        return {}
    if kind == "upper":
        return {"upper": min(1.0, rng.uniform(1.2, 4) / n)}
    if kind == "box":
        upper = rng.uniform(0.8, 6, size=n) / n
        return {"lower": rng.uniform(0, 0.5, size=n) / n, "upper": np.maximum(upper, upper * 1.1 / upper.sum())}
    if kind == "utility":
        return {"utility": rng.normal(size=n)}
    if kind == "target":
        return {"target": rng.dirichlet(np.ones(n))}
    raise ValueError(kind)


KINDS = ("plain", "upper", "box", "utility", "target")


def direction(S, kw):
    """b of E(p) = p'Sp / 2 - tau b'p."""
    n = len(S)
    return kw["utility"] / n if "utility" in kw else S @ kw.get("target", np.full(n, 1 / n))


def centred(S):
    """J S J, J = I - 11'/n."""
    means = S.mean(0)
    return S - means - means[:, None] + S.mean()


def smallest_on_simplex(S):
    """Smallest eigenvalue of S on differences of mixtures."""
    return np.linalg.eigvalsh(centred(S) + 1e6 * np.abs(S).max() / len(S))[0]


def gap(S, b, tau, p, low, high):
    """g'p - min {g'v : low <= v <= high, 1'v = 1}, the knapsack filled task by task."""
    g = S @ p - tau * b
    g = g - g.min()
    room, least = 1 - np.sum(low), g @ low
    for j in np.argsort(g):
        step = min(room, high[j] - low[j])
        least += step * g[j]
        room -= step
    return g @ p - least
