from fractions import Fraction

import numpy as np
import pytest

from taskpgm_ray.numerics import double_double
from taskpgm_ray.numerics.compile import exact_kernel
from taskpgm_ray.numerics.double_double import Pair


@exact_kernel
def _apply(name, a, b, c, d):
    if name == 0:
        return double_double.add(a, b, c, d)
    if name == 1:
        return double_double.multiply(a, b, c, d)
    return double_double.divide(a, b, c, d)


@pytest.mark.parametrize("operation", [0, 1, 2])
def test_scalar_operations_have_thirty_digits(operation):
    rng = np.random.default_rng(operation)
    for _ in range(300):
        a, c = rng.normal(size=2) * 10.0 ** rng.integers(-8, 8, size=2)
        b, d = a * 1e-17 * rng.normal(), c * 1e-17 * rng.normal()
        x, y = Fraction(a) + Fraction(b), Fraction(c) + Fraction(d)
        exact = (x + y, x * y, x / y)[operation]
        high, low = _apply(operation, a, b, c, d)
        size = abs(x) + abs(y) if operation == 0 else abs(exact)
        assert abs(Fraction(high) + Fraction(low) - exact) <= size * Fraction(1, 10**30)
        assert high == float(Fraction(high) + Fraction(low))


def exact(values):
    """A pair as fractions."""
    return [Fraction(h) + Fraction(e) for h, e in zip(values.high.tolist(), values.low.tolist(), strict=True)]


def test_array_operations_have_thirty_digits():
    rng = np.random.default_rng(3)
    n = 7
    S, ridge = rng.normal(size=(n, n)), 1e-13 * rng.uniform(size=n)
    a, b = (Pair(x, 1e-17 * x * rng.normal(size=n)) for x in rng.normal(size=(2, n)))
    total = double_double.add_scaled(a, -0.3, b)
    for found, x, y in zip(exact(total), exact(a), exact(b), strict=True):
        assert abs(found - (x + Fraction(-0.3) * y)) <= (abs(x) + abs(y)) * Fraction(1, 10**30)
    product = double_double.multiply_matrix(S, ridge, a)
    v = exact(a)
    for i, found in enumerate(exact(product)):
        terms = [Fraction(s) * x for s, x in zip(S[i].tolist(), v, strict=True)] + [Fraction(float(ridge[i])) * v[i]]
        assert abs(found - sum(terms)) <= sum(map(abs, terms)) * Fraction(1, 10**29)
