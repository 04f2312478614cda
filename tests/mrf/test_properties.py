"""What has to hold for every problem, searched by hypothesis: ties, duplicates, low rank, wild scales included."""

import hypothesis.strategies as st
import numpy as np
from families import FAMILIES, KINDS, centred, direction, gap, options
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp

from taskpgm_ray.mrf import grid, path, solve

many = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def affinities(draw, largest=9):
    """A PSD matrix: small whole-number factors (ties, duplicates, low rank) or one of the families, on any scale."""
    n = draw(st.integers(2, largest))
    scale = 10.0 ** draw(st.integers(-6, 6))
    if draw(st.booleans()):
        X = draw(hnp.arrays(np.int64, (n, draw(st.integers(1, n + 1))), elements=st.integers(-2, 2))).astype(float)
        return X @ X.T * scale
    family = draw(st.sampled_from(sorted(FAMILIES)))
    return FAMILIES[family](n, np.random.default_rng(draw(st.integers(0, 10**6)))) * scale


@st.composite
def problems(draw):
    """(S, keyword arguments) of solve and path."""
    S = draw(affinities())
    kind = draw(st.sampled_from(KINDS))
    kw = options(kind, len(S), np.random.default_rng(draw(st.integers(0, 10**6))))
    if "utility" in kw:
        kw["utility"] = kw["utility"] * np.abs(S).max()
    return S, kw


balances = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 5), st.floats(0, 1e4))


def limits(S, kw, tau):
    """(b, lower, upper, 1e-12 in the units of the gap)."""
    n = len(S)
    b = direction(S, kw)
    largest = max(np.abs(S).max(), np.abs(b).max())
    low, high = np.broadcast_to(kw.get("lower", 0.0), n), np.minimum(np.broadcast_to(kw.get("upper", 1.0), n), 1.0)
    return b, low, high, 1e-12 * np.maximum(1.0, largest * np.maximum(1.0, tau))


@many
@given(problems(), balances)
def test_solve_is_certified_and_feasible(problem, tau):
    S, kw = problem
    b, low, high, limit = limits(S, kw, tau)
    m = solve(S, tau, **kw)
    assert abs(m.weights.sum() - 1) <= 1e-14 * len(S)
    assert (m.weights >= low).all()
    assert (m.weights <= high).all()
    assert m.gap <= limit
    assert gap(m_S(S, m), b if m.repair is None else direction(m_S(S, m), kw), tau, m.weights, low, high) <= limit


def m_S(S, m):
    """The matrix that was solved: a projection when S was indefinite by its rounding."""
    from taskpgm_ray.mrf import nearest_conditionally_psd

    return S if m.repair is None else nearest_conditionally_psd(S)[0]


@many
@given(problems())
def test_path_is_certified_at_and_between_its_breakpoints(problem):
    S, kw = problem
    P = path(S, **kw)
    S = m_S(S, P)
    b, low, high, limit = limits(S, kw, P.tau)
    assert P.tau[0] == 0
    assert (np.diff(P.tau) >= 0).all()
    assert np.abs(P.weights.sum(axis=1) - 1).max() <= 2e-12
    for tau, p, most in zip(P.tau, P.weights, limit, strict=True):
        assert gap(S, b, tau, p, low, high) <= most
    for i in range(len(P.tau) - 1):
        tau, p = (P.tau[i] + P.tau[i + 1]) / 2, (P.weights[i] + P.weights[i + 1]) / 2
        assert gap(S, b, tau, p, low, high) <= limit[i + 1]
    # Beyond the last breakpoint nothing moves any more.
    far = 3 * P.tau[-1] + 10
    assert gap(S, b, far, P.weights[-1], low, high) <= limits(S, kw, far)[3]


@many
@given(problems(), balances)
def test_path_and_solve_agree(problem, tau):
    S, kw = problem
    P, m = path(S, **kw), solve(S, tau, **kw)
    S = m_S(S, m)
    b, _, _, limit = limits(S, kw, tau)
    p = P.at(tau)
    assert abs(p @ S @ p / 2 - tau * b @ p - m.energy) <= 2 * limit
    # |d|_S^2 / 2 <= difference of energies, and |C d| <= |C|^(1/2) |d|_S.
    C = centred(S)
    assert np.abs(C @ (p - m.weights)).max() <= np.sqrt(4 * limit * np.linalg.norm(C, 2))


@many
@given(problems())
def test_representativeness_and_redundancy_never_decrease(problem):
    S, kw = problem
    P = path(S, **kw)
    S = m_S(S, P)
    b, _, _, limit = limits(S, kw, P.tau)
    size = limit[1:] / np.maximum(1.0, P.tau[1:]) * 10
    assert (np.diff(P.weights @ b) >= -size).all()
    assert (np.diff(np.einsum("mi,ij,mj->m", P.weights, S, P.weights)) >= -2 * size * np.maximum(1, P.tau[1:])).all()


@many
@given(affinities(), st.integers(0, 10**6))
def test_tau_one_returns_the_target(S, seed):
    target = np.random.default_rng(seed).dirichlet(np.ones(len(S)))
    for kw, wanted in (({"target": target}, target), ({}, np.full(len(S), 1 / len(S)))):
        np.testing.assert_allclose(solve(S, 1.0, **kw).weights, wanted, rtol=1e-15)
        np.testing.assert_allclose(path(S, **kw).at(1.0), wanted, atol=1e-12)


@many
@given(affinities(6), st.integers(1, 4), st.integers(0, 10**6))
def test_clones_share_at_tau_zero(S, copies, seed):
    rng = np.random.default_rng(seed)
    task = int(rng.integers(len(S)))
    order = rng.permutation(len(S) + copies)
    index = np.concatenate([np.arange(len(S)), np.full(copies, task)])[order]
    alone, cloned = solve(S, 0.0), solve(S[np.ix_(index, index)], 0.0)
    mass = np.bincount(index, weights=cloned.weights, minlength=len(S))
    clones = cloned.weights[index == task]
    np.testing.assert_allclose(clones, clones.mean(), atol=1e-12)
    limit = 1e-12 * max(1.0, np.abs(S).max())
    assert abs(mass @ m_S(S, alone) @ mass / 2 - alone.energy) <= 4 * limit


@many
@given(problems(), st.floats(0, 20), st.floats(-3, 3), st.integers(0, 10**6))
def test_invariances(problem, tau, shift, seed):
    """Order of the tasks, unit of S, a constant added to S: nothing changes but rounding."""
    S, kw = problem
    base = solve(S, tau, **kw)
    if base.repair is not None:
        return
    b, low, high, limit = limits(S, kw, tau)
    size = np.abs(S).max()
    order = np.random.default_rng(seed).permutation(len(S))
    permuted = {k: v[order] if np.ndim(v) else v for k, v in kw.items()}
    back = np.empty(len(S))
    back[order] = solve(S[np.ix_(order, order)], tau, **permuted).weights
    scaled_kw = {k: v * 4 if k == "utility" else v for k, v in kw.items()}
    scaled = solve(S * 4, tau, **scaled_kw).weights
    found = [back, scaled]
    if "utility" not in kw:
        found.append(solve(S + shift * size, tau, **kw).weights)
    for p in found:
        assert gap(S, b, tau, p, low, high) <= 8 * limit * (1 + abs(shift))


@many
@given(problems(), st.lists(st.floats(0, 30), min_size=1, max_size=6))
def test_grid_is_solve_at_each_balance(problem, taus):
    S, kw = problem
    for tau, m in zip(taus, grid(S, taus, **kw), strict=True):
        assert m.tau == tau
        alone = solve(S, tau, **kw)
        assert abs(m.energy - alone.energy) <= 2 * limits(S, kw, tau)[3]
