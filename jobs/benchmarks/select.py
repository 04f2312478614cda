"""Budgeted selection: time, the share of exact optima, and the value against brute force and the heaviest tasks."""

from itertools import combinations

import numpy as np

from jobs.benchmarks._common import clustered, medians, row
from taskpgm_ray.mrf import select, solve

FAMILIES = ("JSD kernel", "Gram", "Gaussian")


def matrix(family, n, seed):
    """A small similarity matrix of one of the families."""
    rng = np.random.default_rng([FAMILIES.index(family), n, seed])
    if family == "Gram":
        X = rng.normal(size=(n, n + 3))
        return np.corrcoef(X)
    if family == "Gaussian":
        X = rng.normal(size=(n, 3))
        return np.exp(-0.4 * ((X[:, None] - X[None]) ** 2).sum(-1))
    P = rng.dirichlet(np.full(8, 0.5), size=(n, 12)) + 1e-12
    M = (P[:, None] + P[None]) / 2
    own = (P * np.log(P)).sum(-1)
    D = ((own[:, None] + own[None]) / 2 - (M * np.log(M)).sum(-1)).mean(-1)
    return np.exp(-8 * np.maximum(D, 0))


def best_energy(S, k, tau):
    """Smallest energy of at most k tasks: the feasible stationary points of all supports."""
    b, best = S.mean(axis=1), np.inf
    for size in range(1, k + 1):
        A = np.array(list(combinations(range(len(S)), size)))
        K = np.zeros((len(A), size + 1, size + 1))
        K[:, :size, :size] = S[A[:, :, None], A[:, None, :]]
        K[:, size, :size] = K[:, :size, size] = 1
        rhs = np.concatenate([tau * b[A], np.ones((len(A), 1))], axis=1)
        p = np.linalg.solve(K, rhs[..., None])[:, :size, 0]
        energy = np.einsum("ci,cij,cj->c", p, K[:, :size, :size], p) / 2 - tau * (b[A] * p).sum(1)
        best = min(best, energy[(p >= 0).all(axis=1)].min(initial=np.inf))
    return best


def heaviest_energy(S, k, tau):
    """Energy of the k heaviest tasks of the unrestricted mixture, solved again with the utility of all tasks."""
    # At tau = 1 the mixture is uniform and has no heaviest tasks: its limit from below has.
    A = np.argsort(-solve(S, 0.999 if tau == 1 else tau).weights, kind="stable")[:k]
    return solve(S[np.ix_(A, A)], tau, utility=S.mean(axis=1)[A] * k).energy


def quality():
    """Rows on 108 instances whose optimum is known by brute force."""
    optimal, ratios, heavy, guarantees = {}, [], [], []
    for family in FAMILIES:
        for n, k in ((10, 3), (12, 4), (14, 5)):
            for tau in (0.5, 1.0, 2.0):
                for seed in range(4):
                    S = matrix(family, n, seed)
                    s, best = select(S, k, tau), best_energy(S, k, tau)
                    whole = s.singleton_energy - best
                    optimal.setdefault(family, []).append(s.energy <= best + 1e-10)
                    ratios.append((s.singleton_energy - s.energy) / whole)
                    heavy.append((s.singleton_energy - heaviest_energy(S, k, tau)) / whole)
                    plain = (s.singleton_energy - s.greedy_energy) / whole
                    guarantees.append(plain >= s.guarantee - 1e-12 and s.energy <= s.greedy_energy + 1e-13)
    everything = [x for found in optimal.values() for x in found]
    share = float(np.mean(everything))
    rows = [row(f"optimal by brute force, of {len(everything)}", share, None, None, 0.8, share >= 0.8)]
    rows += [row(f"optimal, {family}, of {len(found)}", float(np.mean(found))) for family, found in optimal.items()]
    kept = float(np.mean(guarantees))
    return [
        *rows,
        row("value over the best value, smallest", float(min(ratios)), float(min(heavy)), "top-k re-solved"),
        row("value over the best value, mean", float(np.mean(ratios)), float(np.mean(heavy)), "top-k re-solved"),
        row("guarantee kept by plain greedy, and not below it (share)", kept, None, None, 1, all(guarantees)),
    ]


def run():
    """Measure; rows as in jobs/benchmark.py."""
    rows = quality()
    for n, k in ((100, 10), (200, 20), (1000, 50)):
        S = clustered(n)
        seconds = medians({"select": lambda S=S, k=k: select(S, k, 1.0)})["select"]
        found = select(S, k, 1.0)
        rows += [
            row(f"n = {n}, k = {k}: {found.exact_solves} subsets solved, {found.swaps} exchanges (s)", seconds),
            row(f"n = {n}, k = {k}: energy", found.energy, heaviest_energy(S, k, 1.0), "top-k re-solved"),
            row(f"n = {n}, k = {k}: energy, against plain greedy", found.energy, found.greedy_energy, "plain greedy"),
            row(f"n = {n}, k = {k}: certified gap to all tasks", found.gap),
        ]
    return rows
