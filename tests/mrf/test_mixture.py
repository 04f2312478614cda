import numpy as np
import pytest
from families import FAMILIES, KINDS, direction, options

from taskpgm_ray.errors import IndefiniteAffinityError, InputError
from taskpgm_ray.mrf import certificate, grid, path, solve
from taskpgm_ray.mrf.solvers.pivoting import LARGE


def scale(S, tau):
    return max(1.0, np.abs(S).max()) * max(1.0, tau)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_mixture_is_feasible_and_certified(family, kind):
    rng = np.random.default_rng([len(family), len(kind)])
    for n in (2, 3, 8, 40):
        S = FAMILIES[family](n, rng)
        for tau in (0.0, 0.4, 1.0, 1.3, 7.0, 50.0):
            kw = options(kind, n, rng)
            m = solve(S, tau, **kw)
            size = max(scale(S, tau), max(1, tau) * np.abs(kw.get("utility", 0)).max())
            assert m.gap <= 1e-12 * size
            assert abs(m.weights.sum() - 1) < 1e-11
            assert (m.weights >= kw.get("lower", 0) - 1e-15).all()
            assert (m.weights <= kw.get("upper", 1) + 1e-15).all()
            inside = (m.weights > m.lower) & (m.weights < m.upper)
            assert (m.multipliers[inside] == 0).all()
            assert (m.multipliers[m.weights <= m.lower] >= -1e-11 * size).all()


def test_closed_form_inside_its_window():
    S = FAMILIES["gram"](6, np.random.default_rng(0))
    w = np.linalg.solve(S, np.ones(6))
    w /= w.sum()
    m = solve(S, 0.95)
    assert m.method == "closed form"
    np.testing.assert_allclose(m.weights, 0.95 / 6 + 0.05 * w, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [40, LARGE + 30])
def test_closed_form_solves_the_linear_system_whatever_its_linear_term(kind, n):
    rng = np.random.default_rng(n)
    S = np.eye(n) + 0.1 * FAMILIES["gaussian"](n, rng, dim=30)
    kw = {
        "plain": {}, "upper": {"upper": 5 / n}, "box": {"lower": np.full(n, 0.1 / n), "upper": np.full(n, 5 / n)},
        "utility": {"utility": 0.1 * rng.normal(size=n)}, "target": {"target": rng.dirichlet(np.full(n, 20.0))},
    }[kind]  # fmt: skip
    b = direction(S, kw)
    bordered = np.block([[S, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    for tau in (0.0, 0.9, 1.1):
        m = solve(S, tau, **kw)
        assert m.method == "closed form"
        expected = np.linalg.solve(bordered, np.append(tau * b, 1.0))[:n]
        np.testing.assert_allclose(m.weights, expected, atol=1e-14)
        assert m.gap <= 1e-15 * scale(S, tau)


def test_energy_is_that_of_the_paper():
    rng = np.random.default_rng(1)
    S = FAMILIES["jsd_kernel"](7, rng)
    beta, lam = 0.6, 1.7
    m = solve(S, 7 * beta / lam)
    p = m.weights
    paper = -beta * S.sum(1) @ p + lam / 2 * p @ S @ p
    assert m.energy * lam == pytest.approx(paper, abs=1e-14)
    assert m.beta_over_lambda == pytest.approx(beta / lam)


@pytest.mark.parametrize("family", FAMILIES)
def test_balance_one_returns_the_target(family):
    rng = np.random.default_rng(2)
    for n in (2, 9, 30):
        S = FAMILIES[family](n, rng)
        np.testing.assert_allclose(solve(S, 1.0).weights, 1 / n, atol=1e-12)
        target = rng.dirichlet(np.ones(n))
        np.testing.assert_allclose(solve(S, 1.0, target=target).weights, target, atol=1e-12)


def test_clones_share_equally_and_are_neutral_at_zero():
    rng = np.random.default_rng(3)
    S = FAMILIES["jsd_kernel"](6, rng)
    with_clones = np.ix_([0, 1, 2, 3, 4, 5, 0, 0], [0, 1, 2, 3, 4, 5, 0, 0])
    a, b = solve(S, 0.0), solve(S[with_clones], 0.0)
    assert b.weights[0] == b.weights[6] == b.weights[7] > 0
    np.testing.assert_allclose(b.weights[1:6], a.weights[1:], atol=1e-13)
    assert b.weights[[0, 6, 7]].sum() == pytest.approx(a.weights[0], abs=1e-13)
    # Above 1 a task entered three times counts three times.
    assert solve(S[with_clones], 1.5).weights[[0, 6, 7]].sum() > solve(S, 1.5).weights[0]


def test_clones_with_different_caps_fill_up():
    S = np.ones((3, 3))
    S[2, :2] = S[:2, 2] = 0.0
    m = solve(S, 0.0, upper=[0.1, 1.0, 1.0])
    np.testing.assert_allclose(m.weights, [0.1, 0.4, 0.5], atol=1e-14)


def test_invariances():
    rng = np.random.default_rng(4)
    S = FAMILIES["gaussian"](12, rng)
    for tau in (0.3, 2.5):
        p = solve(S, tau).weights
        np.testing.assert_allclose(solve(3.7 * S, tau).weights, p, atol=1e-10)
        np.testing.assert_allclose(solve(S + 0.9, tau).weights, p, atol=1e-10)


def test_grid_equals_solve_and_keeps_the_order():
    S = FAMILIES["jsd_kernel"](15, np.random.default_rng(5))
    taus = [4.0, 0.0, 1.5, 1.5]
    for tau, m in zip(taus, grid(S, taus), strict=True):
        assert m.tau == tau
        np.testing.assert_allclose(m.weights, solve(S, tau).weights, atol=1e-12)


def test_one_task_and_limits():
    assert solve([[2.0]], 3.0).weights.tolist() == [1.0]
    S = np.eye(3)
    np.testing.assert_allclose(solve(S, 0.5).weights, 1 / 3)
    assert solve(S, 0.0).distinct_tasks == pytest.approx(3)
    assert solve(S, 0.0).effective_tasks == pytest.approx(3)
    assert solve(S, 0.0).perplexity == pytest.approx(3)
    np.testing.assert_allclose(solve(np.zeros((4, 4)), 2.0).weights, 0.25)
    np.testing.assert_allclose(solve(np.ones((4, 4)), 0.0, lower=0.25).weights, 0.25)


def test_indefinite_matrices_are_refused_or_repaired():
    rng = np.random.default_rng(6)
    A = rng.normal(size=(8, 8))
    with pytest.raises(IndefiniteAffinityError, match="indefinite on the simplex"):
        solve(A + A.T, 1.0)
    X = rng.normal(size=(30, 4))
    S = X @ X.T + (lambda E: 0.01 * (E + E.T) / 2)(rng.normal(size=(30, 30)))
    m = solve(S, 2.0, noise=0.01)
    assert m.repair is not None
    assert "nearest conditionally positive semidefinite" in m.repair.method
    assert m.repair.lambda_min < 0
    assert m.repair.clipped > 0
    assert 0 < m.repair.relative_change < 0.01
    with pytest.raises(IndefiniteAffinityError, match="beyond its sampling noise"):
        solve(S, 2.0, noise=1e-5)
    assert solve(X @ X.T, 2.0, noise=0.01).repair is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"S": np.eye(3)[:2], "tau": 1}, "square"),
        ({"S": np.zeros((0, 0)), "tau": 1}, "empty"),
        ({"S": [[1, 0.5], [0.4, 1]], "tau": 1}, "not symmetric"),
        ({"S": [[1, np.nan], [np.nan, 1]], "tau": 1}, "finite"),
        ({"S": [["a", "b"], ["c", "d"]], "tau": 1}, "real numbers"),
        ({"S": np.eye(3), "tau": -1}, "tau"),
        ({"S": np.eye(3), "tau": np.inf}, "tau"),
        ({"S": np.eye(3), "tau": [1, 2]}, "one number"),
        ({"S": np.eye(3), "tau": 1, "utility": [1, 2]}, r"shape \(3,\)"),
        ({"S": np.eye(3), "tau": 1, "utility": [1, 2, 3], "target": [1, 0, 0]}, "not both"),
        ({"S": np.eye(3), "tau": 1, "target": [1, 1, 1]}, "sum to 1"),
        ({"S": np.eye(3), "tau": 1, "target": [1.5, -0.5, 0]}, "negative"),
        ({"S": np.eye(3), "tau": 1, "lower": 0.5}, "lower sums to"),
        ({"S": np.eye(3), "tau": 1, "upper": 0.2}, "upper sums to"),
        ({"S": np.eye(3), "tau": 1, "lower": [0.3, 0, 0], "upper": [0.2, 1, 1]}, "task 0 contradict"),
        ({"S": np.eye(3), "tau": 1, "lower": -0.1}, "negative"),
        ({"S": np.eye(3), "tau": 1, "noise": -1}, "noise"),
    ],
)
def test_bad_input_says_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        solve(**arguments)


def test_rounding_of_printed_digits_is_projected_and_said():
    """A PSD matrix of low rank, printed with twelve digits, is indefinite by 1e-12: it is repaired, which is said."""
    rng = np.random.default_rng(21)
    X = rng.normal(size=(30, 4))
    exact = X @ X.T / np.outer(np.linalg.norm(X, axis=1), np.linalg.norm(X, axis=1))
    printed = np.round(exact, 12)
    assert np.linalg.eigvalsh(printed)[0] < -1e-12
    m = solve(printed, 2.0)
    assert m.repair is not None
    assert m.repair.lambda_min < 0
    assert m.repair.relative_change < 1e-10
    assert m.gap <= 2e-12
    assert m.energy == pytest.approx(solve(exact, 2.0).energy, abs=1e-10)
    assert path(printed).gap.max() <= 1e-10


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 1.5, 5.0])
def test_a_start_from_fewer_tasks_gives_the_fresh_solution(tau):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        S = FAMILIES["jsd_kernel"](15, rng)
        fresh = solve(S, tau)
        old = solve(S[:14, :14], tau)
        for start in (np.append(old.weights, 0.0), old.weights):
            found = solve(S, tau, start=start)
            np.testing.assert_allclose(found.weights, fresh.weights, atol=1e-12)
            assert found.gap <= 1e-12
        u = rng.normal(size=15)
        old = solve(S[:14, :14], tau, utility=u[:14])
        with_u = solve(S, tau, utility=u, start=old.weights)
        np.testing.assert_allclose(with_u.weights, solve(S, tau, utility=u).weights, atol=1e-11)


def test_a_start_under_bounds_gives_the_fresh_solution():
    for seed in range(6):
        rng = np.random.default_rng([3, seed])
        S = FAMILIES[("gram", "duplicates")[seed % 2]](12, rng)
        low, high = rng.uniform(0, 0.04, size=12), rng.uniform(0.1, 0.5, size=12)
        for tau in (0.2, 1.4):
            old = solve(S[:11, :11], tau, lower=low[:11], upper=high[:11])
            new = solve(S, tau, lower=low, upper=high, start=old.weights)
            fresh = solve(S, tau, lower=low, upper=high)
            np.testing.assert_allclose(new.weights, fresh.weights, atol=1e-10)
            assert new.gap <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_start_is_only_a_bad_start(family, kind):
    rng = np.random.default_rng([13, len(family), len(kind)])
    S = FAMILIES[family](9, rng)
    kw = options(kind, 9, rng)
    for tau in (0.0, 0.6, 3.0):
        fresh = solve(S, tau, **kw)
        limit = 1e-12 * max(scale(S, tau), max(1, tau) * np.abs(kw.get("utility", 0)).max())
        for start in (rng.dirichlet(np.ones(9)), np.eye(9)[4], np.zeros(9), rng.normal(size=9), [], 1e6 * np.ones(3)):
            found = solve(S, tau, **kw, start=start)
            assert found.gap <= limit
            assert abs(found.weights.sum() - 1) < 1e-11
            assert abs(found.energy - fresh.energy) <= 2 * limit
    for start, message in ((np.ones(10) / 10, "at most 9 tasks"), ([[1.0]], "at most 9 tasks"), ([np.nan], "finite")):
        with pytest.raises(InputError, match=message):
            solve(S, 1.0, start=start)


@pytest.mark.parametrize("kind", KINDS)
def test_the_certificate_holds_for_any_weights(kind):
    rng = np.random.default_rng([14, len(kind)])
    S = FAMILIES["jsd_kernel"](9, rng)
    kw = options(kind, 9, rng)
    for tau in (0.0, 0.7, 1.0, 4.0):
        best, other = solve(S, tau, **kw), solve(S, tau + 1.0, **kw)
        energy, gap = certificate(S, tau, best.weights, **kw)
        assert energy == pytest.approx(best.energy, abs=1e-14)
        assert 0 <= gap <= 1e-12
        energy, gap = certificate(S, tau, other.weights, **kw)
        assert -1e-14 <= energy - best.energy <= gap
    equal = np.full(9, 1 / 9)
    assert certificate(S, 1.0, equal)[1] <= 1e-14
    assert certificate(S, 0.0, np.eye(9)[0])[0] == pytest.approx(S[0, 0] / 2)
    for bad, arguments, message in (
        (np.ones(9), {}, "weights must sum to 1"),
        (np.full(8, 1 / 8), {}, r"shape \(9,\)"),
        (np.append(np.full(8, 1.1 / 8), -0.1), {}, "weights must not be negative"),
        (equal, {"upper": np.append(0.1, np.ones(8))}, r"weights\[0\] = 0.111111 is outside"),
    ):
        with pytest.raises(InputError, match=message):
            certificate(S, 1.0, bad, **arguments)
    with pytest.raises(IndefiniteAffinityError):
        certificate(-np.eye(9), 1.0, equal)
