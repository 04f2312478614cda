import numpy as np
import pytest
from families import FAMILIES, KINDS, options

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import path, solve


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_path_is_optimal_at_and_between_breakpoints(family, kind):
    rng = np.random.default_rng([7, len(family), len(kind)])
    for n in (2, 5, 17, 40, 90):
        S = FAMILIES[family](n, rng)
        kw = options(kind, n, rng)
        P = path(S, **kw)
        assert P.tau[0] == 0
        assert (np.diff(P.tau) >= 0).all()
        assert np.abs(P.weights.sum(1) - 1).max() <= 2e-12
        size = max(1, np.abs(S).max(), np.abs(kw.get("utility", 0)).max()) * np.maximum(1, P.tau)
        assert (P.gap <= 1e-12 * size).all()
        u = kw.get("utility")
        b = u / n if u is not None else S @ kw.get("target", np.full(n, 1 / n))
        low = np.broadcast_to(kw.get("lower", 0.0), n)
        high = np.broadcast_to(kw.get("upper", 1.0), n)
        for k in range(len(P.tau) - 1):
            tau = (P.tau[k] + P.tau[k + 1]) / 2
            p = (P.weights[k] + P.weights[k + 1]) / 2
            g = S @ p - tau * b
            g -= g.min()
            order, room, best = np.argsort(g), 1 - low.sum(), 0.0
            best = g @ low
            for j in order:
                step = min(room, high[j] - low[j])
                best += step * g[j]
                room -= step
            assert g @ p - best <= 1e-12 * size[k + 1]
        # Beyond the last breakpoint nothing moves any more.
        end = P.tau[-1] * 3 + 10
        assert (
            abs(solve(S, end, **kw).energy - (P.at(end) @ S @ P.at(end) / 2 - end * b @ P.at(end)))
            <= 1e-11 * end * size[0]
        )


@pytest.mark.parametrize("family", ["gram", "gaussian", "jsd_kernel", "duplicates"])
@pytest.mark.parametrize("kind", KINDS)
def test_path_equals_solve(family, kind):
    rng = np.random.default_rng(8)
    n = 25
    S = FAMILIES[family](n, rng)
    kw = options(kind, n, rng)
    P = path(S, **kw)
    for tau in [1e-6, 1.0, *rng.uniform(0, 12, size=20)]:
        np.testing.assert_allclose(P.at(tau), solve(S, tau, **kw).weights, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_representativeness_and_redundancy_never_decrease(family, kind):
    rng = np.random.default_rng(9)
    n = 20
    S = FAMILIES[family](n, rng)
    kw = options(kind, n, rng)
    P = path(S, **kw)
    u = kw.get("utility")
    b = u / n if u is not None else S @ kw.get("target", np.full(n, 1 / n))
    size = np.abs(S).max()
    assert np.diff(P.weights @ b).min(initial=0) >= -1e-11 * max(size, np.abs(b).max())
    assert np.diff(np.einsum("mi,ij,mj->m", P.weights, S, P.weights)).min(initial=0) >= -1e-11 * size * max(
        1, P.tau[-1]
    )


def test_window_agrees_with_the_whole_path():
    rng = np.random.default_rng(10)
    S = FAMILIES["gaussian"](30, rng)
    whole = path(S)
    part = path(S, tau_min=0.3, tau_max=2.2)
    assert part.tau[0] == 0.3
    assert part.tau[-1] == 2.2
    assert not part.complete
    taus = np.linspace(0.3, 2.2, 41)
    np.testing.assert_allclose(part.at(taus), whole.at(taus), atol=1e-11)
    with pytest.raises(InputError, match="covers tau from"):
        part.at(0.2)
    with pytest.raises(InputError, match="covers tau from"):
        part.at(2.5)
    low = path(FAMILIES["low_rank"](12, rng), tau_min=1.2, tau_max=3.0)
    assert low.tau[0] == 1.2
    assert low.gap.max() < 1e-11


@pytest.mark.parametrize("family", ["low_rank", "jsd_kernel", "negative_distance"])
def test_path_passes_through_the_target(family):
    rng = np.random.default_rng(11)
    for n in (5, 12, 40):
        S = FAMILIES[family](n, rng)
        target = rng.dirichlet(np.ones(n))
        at_one = path(S, target=target)
        k = int(np.abs(at_one.tau - 1).argmin())
        found = [
            at_one.at(1.0),
            at_one.weights[k],
            at_one.weights[max(k - 1, 0)],
            at_one.weights[min(k + 1, len(at_one.tau) - 1)],
        ]
        assert min(np.abs(p - target).max() for p in found) < 1e-10


def test_entry_exit_and_support():
    rng = np.random.default_rng(12)
    S = FAMILIES["jsd_kernel"](15, rng)
    P = path(S)
    for i in range(15):
        for start, stop in P.intervals(i):
            middle = (start + min(stop, P.tau[-1] + 1)) / 2
            assert P.at(middle)[i] > 0
        assert P.entry[i] <= 1 <= P.exit[i]
    assert P.support.shape == (len(P.tau) - 1, 15)
    assert np.isinf(P.exit).sum() == 1
    with pytest.raises(InputError, match="not one of"):
        P.intervals(15)


def test_equal_arc_spaces_candidates_evenly():
    S = FAMILIES["jsd_kernel"](20, np.random.default_rng(13))
    P = path(S)
    taus = P.equal_arc(7)
    assert len(taus) == 7
    assert taus[0] == 0
    assert taus[-1] == pytest.approx(P.tau[-1])
    arc = np.interp(taus, P.tau, P.arc)
    np.testing.assert_allclose(np.diff(arc), P.arc[-1] / 6, rtol=1e-9)
    inside = P.equal_arc(4, tau_min=0.2, tau_max=1.7)
    assert inside[0] == 0.2
    assert inside[-1] == pytest.approx(1.7)
    assert len(path(np.eye(4)).equal_arc(5)) == 1
    with pytest.raises(InputError, match="at least 1"):
        P.equal_arc(0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_a_task_enters_where_its_weight_begins_to_grow(family, seed):
    """At the breakpoint itself it is still at zero: rounding there would have it enter one breakpoint too early."""
    P = path(FAMILIES[family](24, np.random.default_rng(seed)))
    middle = (P.weights[1:] + P.weights[:-1]) / 2
    wide = np.diff(P.tau) > 1e-9 * np.maximum(1.0, P.tau[1:])
    np.testing.assert_array_equal(P.support[wide], middle[wide] > 1e-12)
