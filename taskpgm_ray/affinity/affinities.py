"""`Affinities`: what the pool's scores add up to, and the affinity matrix S as a view of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from taskpgm_ray.affinity.bandwidth import NoiseFloor, NoiseKernel, noise_kernel
from taskpgm_ray.affinity.distributions import LEAST_COVERAGE
from taskpgm_ray.affinity.kernels import kernel, median_gamma
from taskpgm_ray.affinity.mutual_information import pmi_pairwise, profile_distances
from taskpgm_ray.errors import InputError
from taskpgm_ray.numerics.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd

    from taskpgm_ray.affinity.halfway import Halfway

Kind = Literal["jsd", "pmi"]


@dataclass(frozen=True, eq=False)
class Affinities:
    """How alike the tasks' adapters behave; n tasks in the order of ``tasks``.

    Only sums over the probes are kept. Kind and bandwidth are applied by `view` in memory: another kernel, or another
    kind of affinity, costs no second pass over the scores.
    """

    tasks: tuple[str, ...]
    divergence: FloatArray
    """[n, n] mean Jensen-Shannon divergence on support and tail, nats: a lower bound of that of the full vocabulary."""
    divergence_upper: FloatArray
    """[n, n] the upper bound, nats."""
    divergence_se: FloatArray
    """[n, n] standard error of ``divergence``."""
    pmi: FloatArray
    """[n, n] pointwise mutual information, nats: row model, column task's probes."""
    gram: FloatArray
    """[n, n] inner products of the models' centred PMI profiles."""
    lift: FloatArray
    """[n, n] mean log-likelihood ratio to the base model per token, nats: row model, column task's probes."""
    answers: FloatArray
    """[n, n] the same of whole answers, whose log-probability is taken as at least ln 1e-12."""
    coverage: FloatArray
    """[1 + n, n] mean mass on the support: the base model first, then the adapters; by the probes' task."""
    fingerprint: str
    """Of the scores that were summed."""
    noise: NoiseFloor | None = None
    """What two adapters of one task are apart; ``None``: not measured."""
    halfway: Halfway | None = None
    """Those of some tasks at half of their budget; ``None``: not measured."""
    probes: int = 0
    """Of all tasks together, that were summed."""

    @cached_property
    def profile_distances(self) -> FloatArray:
        """[n, n] mean squared difference of the models' PMI (or lift) profiles, squared nats."""
        return profile_distances(self.gram)

    def distances(self, kind: Kind) -> FloatArray:
        """[n, n] what the kernel of this kind is made of: divergences in nats, or squared nats for PMI."""
        return self.divergence if kind == "jsd" else self.profile_distances

    def pairwise(self, answer: Literal["mean", "sum"] = "mean") -> FloatArray:
        """The paper's pairwise PMI [n, n], by an answer's mean token or by the whole answer; see `pmi_pairwise`."""
        return pmi_pairwise(self.pmi if answer == "mean" else self.answers)

    def median_gamma(self, kind: Kind = "jsd") -> float:
        """The bandwidth of the median rule: ln 2 / median of the `distances`."""
        return median_gamma(self.distances(kind))

    def view(self, kind: Kind, gamma: float | None = None) -> FloatArray:
        """The affinity matrix S = exp(-gamma D) [n, n], symmetric and positive semidefinite.

        Args:
            kind: ``jsd``: D is the Jensen-Shannon divergence. ``pmi``: the squared distance of the PMI profiles.
            gamma: Bandwidth per unit of D; `median_gamma` if None.

        Raises:
            InputError: More than half of D is 0 and no gamma was given.
        """
        return kernel(self.distances(kind), self.median_gamma(kind) if gamma is None else gamma)

    def above_noise(self, kind: Kind = "jsd", factor: float = 1.0) -> NoiseKernel:
        """The affinity matrix with its noise floor taken off and the bandwidth that the floor allows.

        Args:
            kind: As for `view`.
            factor: Of the bandwidth.

        Raises:
            InputError: The noise floor was not measured.
        """
        if self.noise is None:
            raise InputError(
                "the noise floor of these affinities was not measured: it takes a second fine-tune of some tasks "
                "(affinity.gamma: noise), or give affinity.gamma as median or as a number"
            )
        return noise_kernel(
            self.distances(kind), self.noise.divergence if kind == "jsd" else self.noise.distance, factor
        )

    def to_pandas(self, what: Literal["jsd", "pmi", "divergence", "lift"] = "divergence") -> pd.DataFrame:
        """A table [n, n] with the tasks' names.

        Args:
            what: ``divergence`` or ``lift`` in nats, or S of the kind ``jsd`` or ``pmi``: above the noise floor where
                that was measured, else with the bandwidth of the median rule.
        """
        import pandas as pd

        if what in ("jsd", "pmi"):
            kind: Kind = "jsd" if what == "jsd" else "pmi"
            table = self.view(kind) if self.noise is None else self.above_noise(kind).S
        else:
            table = self.divergence if what == "divergence" else self.lift
        return pd.DataFrame(table, index=list(self.tasks), columns=list(self.tasks))

    def coverage_warning(self) -> str:
        """A sentence when a mean coverage is below `LEAST_COVERAGE`, else nothing."""
        low = self.coverage < LEAST_COVERAGE
        if not low.any():
            return ""
        row, column = np.unravel_index(int(self.coverage.argmin()), self.coverage.shape)
        worst = "the base model" if row == 0 else f"the adapter of {self.tasks[int(row) - 1]}"
        return (
            f"coverage is below {LEAST_COVERAGE:.0%} for {int(low.sum())} of {low.size} pairs of model and task, least "
            f"{self.coverage.min():.1%} ({worst} on {self.tasks[int(column)]}); the report gives bounds of each "
            "divergence"
        )
