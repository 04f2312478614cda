"""Families of mixtures: one affinity with one utility gives one path over all balances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.affinity import text_affinity
from taskpgm_ray.affinity.affinities import Affinities, Kind
from taskpgm_ray.affinity.bandwidth import NoiseKernel
from taskpgm_ray.config import PAIRWISE, StudyConfig
from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import Limits, MixturePath, Repair, repaired, solve
from taskpgm_ray.mrf.limits import SampledPath
from taskpgm_ray.mrf.paper import closed_form, laplacian, projected, shifted
from taskpgm_ray.search.gain import Gain
from taskpgm_ray.tasks.prepare import Task

Floats = NDArray[np.float64]
FREE = 1e-9
"""Energy p'Sp of a mixture, beside the largest entry of S, that counts as none."""
SHORTCUTS = 33
"""Samples of the paper's mixtures over the balance."""
TEXTS = 300
"""Examples per task whose words are compared."""


@dataclass(frozen=True, eq=False)
class Family:
    """The mixtures of one affinity and one utility."""

    name: str
    """``jsd``, ``pmi``, ``text``, with the kernel's factor or ``-targeted`` where there are several."""
    affinity: str
    """``jsd``, ``pmi``, ``pmi_pairwise`` or ``text``."""
    S: Floats
    """[n, n]."""
    gamma: float | None
    """Bandwidth of the kernel, per nat (JSD) or squared nat (PMI); ``None``: no kernel."""
    utility: Floats | None
    """[n]; ``None``: the row sums of S."""
    contender: bool
    """Whether its mixtures may win; a baseline's only compete."""
    noise: NoiseKernel | None = None
    """How S stands out of the noise floor; ``None``: the bandwidth is by another rule, or there is none."""
    limits: Limits | None = None
    """What its mixtures have to keep to; ``None``: nothing."""
    end: float = 6.0
    """The largest balance that is of interest."""
    repair: Repair | None = None
    """How S was mended; ``None``: it was not indefinite."""
    indefinite: Floats | None = None
    """What it was before [n, n]."""
    shortcut: bool = False
    """Whether its mixtures are the paper's: closed form and projection, which is no optimum."""

    @cached_property
    def path(self) -> MixturePath:
        """Its mixtures over the balance."""
        if self.shortcut:
            return _shortcuts(self.S, self.end)
        return self.within.path(self.S, self.utility, self.end)

    def identity(self) -> list[object]:
        """What its mixtures depend on, as JSON values."""
        utility = self.utility is not None and np.asarray(self.utility).round(12).tolist()
        return [self.name, np.asarray(self.S).round(12).tolist(), utility, *self.within.identity()]

    @property
    def within(self) -> Limits:
        """Its limits, those of the simplex if there are no others."""
        return Limits.none(len(self.S)) if self.limits is None else self.limits


def families(
    affinities: Affinities, tasks: Sequence[Task], config: StudyConfig, limits: Limits, lift: Gain | None
) -> list[Family]:
    """The families that a search covers, contenders first.

    Args:
        affinities: Of the pool; every kind and bandwidth is a view of them.
        tasks: The pool, whose texts the text affinity compares.
        config: Affinities, kernel bandwidths, utilities, baselines.
        limits: What the mixtures have to keep to.
        lift: What each task's adapter gains on the search split; needed for the targeted utility.
    """
    search, found = config.search, []
    for kind in search.affinities or (config.affinity.kind,):
        for family in _views(kind, affinities, tasks, config):
            if family.affinity != PAIRWISE:  # which is given up to a constant, and with it the energy of every mixture
                refuse_free(family.S, family.name)
            for utility in search.utilities:
                target = None
                if utility == "targeted":
                    assert lift is not None, "whoever searches a targeted utility measures it"
                    target = targeted(family.S, lift.values)
                name = family.name if target is None else f"{family.name}-targeted"
                found.append(replace(family, name=name, utility=target))
    if "text" in search.baselines and not any(family.affinity == "text" for family in found):
        found.append(Family("text", "text", text_similarity(tasks), None, None, contender=False))
    if "paper" in search.baselines:
        pairwise = affinities.pairwise(config.affinity.answer)
        found.append(Family("paper", PAIRWISE, pairwise, None, None, contender=False, shortcut=True))
    if "laplacian" in search.baselines:
        graph, degrees = laplacian(affinities.pairwise(config.affinity.answer))
        found.append(Family("laplacian", PAIRWISE, graph, None, degrees, contender=False))
    # A target is another utility: a family that has its own has no use for it.
    kept = [limits if family.utility is None else replace(limits, target=None) for family in found]
    return [replace(family, limits=within, end=search.tau[1]) for family, within in zip(found, kept, strict=True)]


def _shortcuts(S: Floats, end: float) -> MixturePath:
    """The paper's mixtures over the balance, without certificates: they are optima of nothing."""
    definite = shifted(S)
    taus = np.linspace(0.0, end, SHORTCUTS)
    return SampledPath.of(taus, lambda tau: projected(closed_form(definite, tau)), lambda tau, weights: float("nan"))


def own_family(affinities: Affinities, config: StudyConfig, limits: Limits) -> Family:
    """The family of the study's own kind and bandwidth: what is reported where nothing was searched."""
    kind = config.affinity.kind
    if kind == "pmi_pairwise":
        made = _pairwise(affinities, config)
    else:
        made = _measured(kind, kind, 1.0, affinities, config)
    return replace(made, limits=limits, end=max(config.mixture.fixed_tau(len(affinities.tasks)) or 0.0, 6.0))


def targeted(S: Floats, lift: Floats) -> Floats:
    """A utility [n >= 2] that follows ``lift`` and pulls as strongly as the row sums of S would.

    The mixture does not change when a constant is added to the utility, and its scale only rescales tau; with the
    spread of the row sums, one range of tau fits both utilities. Tasks that are all equally alike have row sums without
    a spread; there a task one standard deviation above the mean gets twice its equal share at tau = 1. Neither rule
    changes when a constant is added to S, which changes no mixture either.
    """
    spread = float(lift.std())
    n, rows = len(S), S.sum(axis=1)
    itself, others = np.trace(S) / n, (S.sum() - np.trace(S)) / (n * (n - 1))
    pull = max(float(rows.std()), float(itself - others))
    # Adapters that all gain the same say nothing about which task to prefer.
    return np.asarray(rows.mean() + (lift - lift.mean()) * (pull / spread if spread > 0 else 0.0))


def text_similarity(tasks: Sequence[Task]) -> Floats:
    """Affinity of the tasks' words [n, n]: TF-IDF of prompts and responses of training examples."""
    texts = []
    for task in tasks:
        table = task.table("train").slice(0, TEXTS)
        texts.append(
            [f"{p} {r}" for p, r in zip(table["prompt"].to_pylist(), table["response"].to_pylist(), strict=True)]
        )
    return text_affinity(texts)


def _views(kind: str, affinities: Affinities, tasks: Sequence[Task], config: StudyConfig) -> list[Family]:
    """Each variant of one kind of affinity, by the row sums of S."""
    if kind == "text":
        return [Family("text", "text", text_similarity(tasks), None, None, contender=True)]
    if kind == PAIRWISE:
        return [_pairwise(affinities, config)]
    measured: Kind = "pmi" if kind == "pmi" else "jsd"
    factors = config.search.gammas
    names = [kind] if len(factors) == 1 else [f"{kind}-gamma-{factor:g}" for factor in factors]
    return [_measured(name, measured, factor, affinities, config) for name, factor in zip(names, factors, strict=True)]


def _pairwise(affinities: Affinities, config: StudyConfig) -> Family:
    """The paper's affinity, made fit for an exact mixture."""
    measured = affinities.pairwise(config.affinity.answer)
    S, repair = repaired(measured, config.affinity.repair)
    return Family(PAIRWISE, PAIRWISE, S, None, None, contender=True, repair=repair, indefinite=measured)


def _measured(name: str, kind: Kind, factor: float, affinities: Affinities, config: StudyConfig) -> Family:
    """A kernel of the adapters' behaviour with ``factor`` times the bandwidth that the config's rule gives."""
    rule = config.affinity.gamma
    # In a pool of two every S gives the same mixture, and no task was fine-tuned twice.
    if rule == "noise" and len(affinities.tasks) > 2:
        found = affinities.above_noise(kind, factor)
        return Family(name, kind, found.S, found.gamma, None, contender=True, noise=found)
    # A number belongs to the study's own kind: the units of the two differ.
    own = isinstance(rule, float) and kind == config.affinity.kind
    gamma = factor * (float(rule) if own else affinities.median_gamma(kind))
    return Family(name, kind, affinities.view(kind, gamma), gamma, None, contender=True)


def refuse_free(S: Floats, name: str) -> None:
    """Refuse an affinity along which a mixture has no energy: its null vector is a mixture.

    Diversity then has nothing to say: up to tau = 1 the path is a blend of that vector and uniform, whatever the
    off-diagonal. Correlations of centred profiles are of this kind.

    Raises:
        InputError: It names the family.
    """
    least = solve(S, 0.0)
    energy = float(least.weights @ S @ least.weights)
    if energy <= FREE * float(np.abs(S).max()):
        raise InputError(
            f"the affinity {name!r} has a mixture without energy (p'Sp = {energy:.1e}), so that diversity cannot tell "
            "mixtures apart; take a kernel of distances, or do not centre what is correlated"
        )
