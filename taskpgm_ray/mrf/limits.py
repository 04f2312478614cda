"""What a mixture has to keep to beside the simplex, and the family of mixtures over the balance under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf.energy import cheapest
from taskpgm_ray.mrf.groups import Group, cheapest_grouped, indicator
from taskpgm_ray.mrf.mixture import certificate, solve, solve_grouped
from taskpgm_ray.mrf.mixture_path import MixturePath, path
from taskpgm_ray.mrf.selection import select
from taskpgm_ray.numerics.checks import as_floats
from taskpgm_ray.numerics.types import Bound, FloatArray

STEPS = 33
"""Balances of a sampled path from 0 to 1, and again from there to its end."""
ROUNDING = 1e-9
"""How far a weight or a share may be outside its limits and pass as rounding."""


@dataclass(frozen=True, eq=False)
class Limits:
    """Bounds of n tasks, limits of groups of them, the target mixture, and the number of tasks."""

    lower: FloatArray
    """[n]."""
    upper: FloatArray
    """[n]."""
    groups: tuple[Group, ...] = ()
    target: FloatArray | None = None
    """The mixture [n] at tau = 1; ``None``: uniform."""
    most: int | None = None
    """Tasks that may have weight; ``None``: all."""

    @classmethod
    def none(cls, n: int) -> Limits:
        """Those of the simplex alone."""
        return cls(np.zeros(n), np.ones(n))

    @property
    def bounds(self) -> tuple[Bound, Bound]:
        """(lower, upper) as the solvers take them; ``None`` where a side says nothing."""
        return (self.lower if (self.lower > 0).any() else None), (self.upper if (self.upper < 1).any() else None)

    def identity(self) -> list[object]:
        """What it consists of, as JSON values; empty for the simplex alone."""
        plain = not self.groups and self.target is None and self.most is None
        if plain and all(bound is None for bound in self.bounds):
            return []
        groups = [[np.asarray(group.members).tolist(), group.low, group.high] for group in self.groups]
        target = None if self.target is None else self.target.tolist()
        return [self.lower.tolist(), self.upper.tolist(), groups, target, self.most]

    def solve(self, S: npt.ArrayLike, tau: float, utility: npt.ArrayLike | None = None) -> FloatArray:
        """The best mixture [n] at one balance; see `taskpgm_ray.mrf.solve` and, with ``most``, `select`."""
        lower, upper = self.bounds
        if self.most is not None:
            k = self.most
            found = select(S, k, tau, utility=utility, target=self.target, lower=lower, upper=upper)
            return np.asarray(found.weights)
        if self.groups:
            tied = solve_grouped(S, tau, self.groups, utility=utility, target=self.target, lower=lower, upper=upper)
            return tied.weights
        return solve(S, tau, utility=utility, target=self.target, lower=lower, upper=upper).weights

    def nearest(self, mixture: FloatArray) -> FloatArray:
        """The mixture [n] that keeps to them and is nearest to this one in the Euclidean distance."""
        limits = replace(self, target=None)
        if not limits.identity():
            return mixture
        n = len(mixture)
        # |p - q|^2 / 2 is the energy p'Ip / 2 - u'p / n of the utility u = n q, up to a constant.
        return limits.solve(np.eye(n), 1.0, n * mixture)

    def path(self, S: npt.ArrayLike, utility: npt.ArrayLike | None = None, end: float = 6.0) -> MixturePath:
        """All mixtures over the balance: exact between bounds; with groups or few tasks, exact wherever it is asked.

        Args:
            S: Affinities [n, n].
            utility: [n]; ``None``: the row sums of S.
            end: The largest balance of a path that is sampled.
        """
        lower, upper = self.bounds
        if not self.groups and self.most is None:
            return path(S, utility=utility, target=self.target, lower=lower, upper=upper)
        taus = np.unique(np.concatenate([np.linspace(0, 1, STEPS), np.linspace(1, max(end, 2.0), STEPS)]))
        return SampledPath.of(
            taus,
            lambda tau: self.solve(S, tau, utility),
            lambda tau, weights: self.certificate(S, tau, weights, utility)[1],
        )

    def certificate(
        self, S: npt.ArrayLike, tau: float, weights: npt.ArrayLike, utility: npt.ArrayLike | None = None
    ) -> tuple[float, float]:
        """(energy, gap) of a mixture [n]; with ``most`` the gap is to the best mixture of any number of tasks."""
        lower, upper = self.bounds
        return certificate(
            S, tau, weights, utility=utility, target=self.target, lower=lower, upper=upper, groups=self.groups
        )

    def kept(self, mixtures: FloatArray) -> npt.NDArray[np.bool_]:
        """Which of these mixtures [k, n] keep the bounds and the groups' limits [k]; ``most`` is not looked at."""
        inside = ((mixtures >= self.lower - ROUNDING) & (mixtures <= self.upper + ROUNDING)).all(axis=1)
        shares = mixtures @ indicator(self.groups, len(self.lower)).T
        low, high = (np.array([getattr(group, end) for group in self.groups]) for end in ("low", "high"))
        return np.asarray(inside & ((shares >= low - ROUNDING) & (shares <= high + ROUNDING)).all(axis=1))

    def corner(self, cost: FloatArray) -> FloatArray:
        """A mixture [n] of least cost'p among those that keep the bounds and the groups' limits.

        Mixtures of such corners keep them as well. Not so ``most``, which is not looked at.

        Raises:
            InputError: No mixture keeps all limits.
        """
        if self.groups:
            found = cheapest_grouped(cost, self.lower, self.upper, self.groups)
            if found is None:
                raise InputError("no mixture keeps the bounds of the tasks and the limits of the groups")
            return found
        order, weights = cheapest(cost, self.lower, self.upper)
        made = np.empty(len(order))
        made[order] = weights
        return made


@dataclass(frozen=True)
class SampledPath(MixturePath):
    """Mixtures that are no straight lines between few breakpoints: solved anew at every balance that is asked for.

    ``tau`` and ``weights`` are samples for figures; entry and exit are known to their distance.
    """

    solver: Callable[[float], FloatArray] = field(kw_only=True, repr=False, compare=False)
    solved: dict[float, FloatArray] = field(kw_only=True, repr=False, compare=False)

    @classmethod
    def of(
        cls, taus: FloatArray, solver: Callable[[float], FloatArray], gap: Callable[[float, FloatArray], float]
    ) -> SampledPath:
        """The mixtures of ``solver`` at these balances, each with its certificate by ``gap``."""
        solved = {float(tau): solver(float(tau)) for tau in taus}
        return cls(
            tau=np.array(list(solved)),
            weights=np.array(list(solved.values())),
            gap=np.array([gap(tau, weights) for tau, weights in solved.items()]),
            complete=False,
            solver=solver,
            solved=solved,
        )

    def at(self, tau: float | npt.ArrayLike) -> FloatArray:
        """See `MixturePath.at`."""
        asked = as_floats(tau, "tau")
        if (asked < 0).any():
            raise InputError(f"tau must be >= 0, got {tau!r}")
        found = np.array([self._one(float(one)) for one in asked.ravel()])
        return np.asarray(found.reshape(*asked.shape, self.weights.shape[1]))

    def _one(self, tau: float) -> FloatArray:
        if tau not in self.solved:
            self.solved[tau] = self.solver(tau)
        return self.solved[tau]
