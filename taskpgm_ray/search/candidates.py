"""Which mixtures are tried: balances at equal arc length along the path of each family, and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import CLUSTERS, FAMILIES, GIVEN, REGRESSION, SearchConfig
from taskpgm_ray.errors import InputError
from taskpgm_ray.mixture import (
    capped_proportional,
    dirichlet,
    equal_loss,
    proportional,
    read_given,
    temperature,
    uniform,
)
from taskpgm_ray.mrf import clusters
from taskpgm_ray.search.families import Family


@dataclass(frozen=True)
class Candidate:
    """One mixture to be tried."""

    name: str
    kind: Literal["balance", "baseline"]
    """``balance``: TaskPGM's, which may win. ``baseline``: only to be compared with."""
    tau: float | None
    weights: NDArray[np.float64]
    """[n] on the simplex."""
    method: str
    """What it stands for: a family's name, or the baseline's own. Each method is judged by its best candidate."""
    drawn: bool = False
    """Whether each seed has a mixture of its own, drawn at random; ``weights`` is that of the first."""

    def at_seed(self, seed: int) -> NDArray[np.float64]:
        """The weights [n] that the fine-tune with this seed trains on."""
        return dirichlet(len(self.weights), seed) if self.drawn else self.weights


@dataclass(frozen=True)
class Pool:
    """What baselines know of the n tasks."""

    sizes: Sequence[int]
    """Examples to train on that each task's source has."""
    names: Sequence[str] = ()
    """For ``mixture:FILE``."""
    loss_drops: Sequence[float] = ()
    """How far each task's own fine-tune lowered its loss [nats], for ``equal_loss``."""
    affinity: NDArray[np.float64] | None = None
    """S [n, n] by which ``clusters:K`` groups the tasks."""


def candidates(
    families: Sequence[Family],
    pool: Pool,
    config: SearchConfig,
    fixed_tau: float | None = None,
    seed: int = 0,
) -> list[Candidate]:
    """The baselines, and the balances of every family (or only ``fixed_tau`` when the user set one).

    A mixture that another candidate nearly is (``config.merge_distance``) is not tried again under a second name.

    Args:
        families: The paths of mixtures; their paths cover the configured range.
        pool: The tasks, for the baselines.
        config: Number of balances, range, baselines.
        fixed_tau: The user's own balance.
        seed: Draws the random mixture.
    """
    made, _ = baselines(pool, config, seed)
    for family in families:
        balances = [balance(family, tau, families) for tau in _taus(family, config, fixed_tau)]
        new: list[Candidate] = []
        for one in balances:
            if all(distance(one, other) > config.merge_distance for other in (*made, *new)):
                new.append(one)
        # Each family is to be judged: where all its mixtures are others', one of them is tried all the same.
        made += new or balances[:1]
    return made


def baselines(pool: Pool, config: SearchConfig, seed: int) -> tuple[list[Candidate], dict[str, str]]:
    """The configured baselines that are no family; and those that are left out, with the reason.

    Of baselines that nearly are one mixture (``config.merge_distance``) the first is trained. ``regression`` is not
    among them: its mixture follows from the trials of all the others.
    """
    n = len(pool.sizes)
    known = {
        "uniform": lambda: uniform(n),
        "proportional": lambda: proportional(pool.sizes),
        "temperature": lambda: temperature(pool.sizes, config.temperature),
        "capped": lambda: capped_proportional(pool.sizes, config.cap or float(np.median(pool.sizes))),
        "equal_loss": lambda: equal_loss(pool.loss_drops),
        "random": lambda: dirichlet(n, seed),
    }
    made: list[Candidate] = []
    left_out: dict[str, str] = {}
    own = given_labels(config.baselines)
    for name in (name for name in config.baselines if name not in (*FAMILIES, REGRESSION)):
        given = name in own
        label = own.get(name, name.replace(":", "-"))
        try:
            if given:
                weights = read_given(name.removeprefix(GIVEN), pool.names)
            elif name.startswith(CLUSTERS):
                weights = equal_clusters(pool.affinity, int(name.removeprefix(CLUSTERS)))
            else:
                weights = known[name]()
        except InputError as error:
            if given:
                raise
            left_out[name] = str(error)
            continue
        one = Candidate(label, "baseline", None, weights, label, drawn=name == "random")
        same = [other.name for other in made if not one.drawn and distance(one, other) <= config.merge_distance]
        if same:
            left_out[label] = same_as(same[0], config)
        else:
            made.append(one)
    return made, left_out


def given_labels(baselines: Sequence[str]) -> dict[str, str]:
    """Each ``mixture:FILE`` -> what it is called: by the file's name, and by its whole path where two have one name."""
    files = {name: Path(name.removeprefix(GIVEN)) for name in baselines if name.startswith(GIVEN)}
    stems = [file.stem for file in files.values()]
    return {
        name: "given-" + (file.stem if stems.count(file.stem) == 1 else "-".join(file.relative_to(file.anchor).parts))
        for name, file in files.items()
    }


def same_as(other: str, config: SearchConfig) -> str:
    """Why a mixture is not trained that another candidate nearly is."""
    return f"it is the mixture of {other} (nearer than {config.merge_distance:g})"


def equal_clusters(S: NDArray[np.float64] | None, count: int) -> NDArray[np.float64]:
    """Equal shares [n] for so many clusters of tasks, and for the tasks of each.

    Raises:
        InputError: There are fewer tasks than clusters.
    """
    assert S is not None, "whoever asks for clusters knows the affinity"
    n = len(S)
    label = clusters(S, np.full(n, 1 / n), count=count).label
    sizes = np.bincount(label)
    return np.asarray(1 / (len(sizes) * sizes[label]))


def balance(family: Family, tau: float, families: Sequence[Family]) -> Candidate:
    """The family's mixture at one balance."""
    # With one family to choose from, the balance says everything.
    lone = family.contender and sum(other.contender for other in families) == 1
    name = f"tau-{tau:.4g}" if lone else f"{family.name}-tau-{tau:.4g}"
    return Candidate(name, "balance" if family.contender else "baseline", tau, family.path.at(tau), family.name)


def distance(a: Candidate, b: Candidate) -> float:
    """Total variation between two mixtures, 0 to 1."""
    return float(np.abs(a.weights - b.weights).sum() / 2)


def _taus(family: Family, config: SearchConfig, fixed_tau: float | None) -> list[float]:
    if fixed_tau is not None:
        return [fixed_tau]
    return [float(t) for t in family.path.equal_arc(config.balances, tau_min=config.tau[0], tau_max=config.tau[1])]
