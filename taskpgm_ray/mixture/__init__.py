"""From weights to example counts, and the mixtures that TaskPGM is compared with."""

from taskpgm_ray.mixture.apportionment import counts, token_counts
from taskpgm_ray.mixture.baselines import (
    capped_proportional,
    dirichlet,
    equal_loss,
    proportional,
    temperature,
    uniform,
)
from taskpgm_ray.mixture.given import read_given

__all__ = [
    "capped_proportional",
    "counts",
    "dirichlet",
    "equal_loss",
    "proportional",
    "read_given",
    "temperature",
    "token_counts",
    "uniform",
]
