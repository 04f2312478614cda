"""What the paper's shortcut (shift, closed form, projection) costs beside the exact mixture of the same matrix.

Four made-up matrices: kernels of 60 and 316 tasks in clusters, one of tasks that have little in common, and pairwise
PMI as it is published for 316 tasks: zero diagonal, mean -6, much of the spectrum negative. ``ours`` and ``peer`` are
the tasks with a positive share in the exact mixture and in the shortcut's; the name says what part of the mixture lies
elsewhere, and the shortcut's excess in energy as a part of uniform's: above 100 %, uniform would have been better.
The last rows are the three repairs of the fourth matrix, how far their exact mixtures are apart, and its Laplacian
variant.
"""

import time

import numpy as np

from jobs.benchmarks._common import clustered, row
from taskpgm_ray.mrf import beside_exact, certificate, laplacian, repaired, solve

TAUS = {"60": (0.0, 0.25, 0.5), "316": (0.0, 0.25, 0.5), "unlike": (0.0, 0.25, 0.5), "pmi": (6.3, 63.0, 158.0, 211.0)}
MOST_SECONDS = 1.0


def run():
    """A row per matrix and balance, and the repairs."""
    matrices = {
        "60": ("60 tasks in clusters", clustered(60)),
        "316": ("316 tasks in clusters", clustered(316)),
        "unlike": ("60 unlike tasks", unlike(60)),
        "pmi": ("pairwise PMI of 316 tasks", pairwise(316, 151)),
    }
    rows = [compared(name, S, tau) for key, (name, S) in matrices.items() for tau in TAUS[key]]
    return rows + repairs(matrices["pmi"][1]) + variants(matrices["pmi"][1])


def compared(name, S, tau):
    """One matrix at one balance."""
    started = time.perf_counter()
    found = beside_exact(S, tau)
    seconds = time.perf_counter() - started
    n = len(S)
    definite = S if np.linalg.eigvalsh(S)[0] > 0 else repaired(S, "shift")[0]
    spread = certificate(definite, tau, np.full(n, 1 / n))[0] - found.exact.energy
    above = found.excess / spread if spread > 0 else 0.0
    support = int((found.exact.weights > 0).sum()), int((found.weights > 0).sum())
    what = f"{name}, tau {tau:g}: {found.distance:.1%} elsewhere, excess {above:.0%} of uniform's, {seconds:.2f} s"
    return row(what, *support, "tasks in the shortcut", met=bool(seconds < MOST_SECONDS))


def repairs(S):
    """How far the repairs' mixtures are apart at one balance."""
    mended = {method: repaired(S, method) for method in ("project", "shift", "clip")}
    weights = {method: solve(matrix, 2.0).weights for method, (matrix, _) in mended.items()}
    return [
        row(
            f"repair {one} (S changed by {mended[one][1].relative_change:.0%}) and {other}, tau 2: mixtures apart",
            float(np.abs(weights[one] - weights[other]).sum() / 2),
        )
        for one, other in (("project", "shift"), ("project", "clip"), ("shift", "clip"))
    ]


def variants(S):
    """Tasks with a positive share in the mixtures of the Laplacian."""
    graph, degrees = laplacian(S)
    supports = {tau: int((solve(graph, tau, utility=degrees).weights > 0).sum()) for tau in TAUS["pmi"]}
    return [row(f"Laplacian variant, tau {tau:g}: tasks", support) for tau, support in supports.items()]


def unlike(n):
    """A kernel of points that are about equally far from each other."""
    X = np.random.default_rng(1).normal(size=(n, 50))
    d = ((X[:, None] - X[None]) ** 2).sum(-1)
    return np.exp(-3 * d / np.median(d))


def pairwise(n, negative):
    """Symmetric with a zero diagonal and a mean of -6; ``negative`` eigenvalues on the simplex are far below zero."""
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(n, n)))[0]
    values = np.concatenate([-np.geomspace(146, 6.5, negative), np.geomspace(160, 0.05, n - negative)])
    S = (vectors * values) @ vectors.T
    S = (S + S.T) / 2 - 6.0
    np.fill_diagonal(S, 0.0)
    return S
