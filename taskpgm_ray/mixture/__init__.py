"""From weights to example counts, and the mixtures that TaskPGM is compared with."""

from taskpgm_ray.mixture.apportionment import counts, example_shares, mean_length, token_counts
from taskpgm_ray.mixture.baselines import (
    capped_proportional,
    dirichlet,
    equal_loss,
    proportional,
    temperature,
    uniform,
)
from taskpgm_ray.mixture.constraints import Constraints, constraints_of
from taskpgm_ray.mixture.given import read_given

__all__ = [
    "Constraints",
    "capped_proportional",
    "constraints_of",
    "counts",
    "dirichlet",
    "equal_loss",
    "example_shares",
    "mean_length",
    "proportional",
    "read_given",
    "temperature",
    "token_counts",
    "uniform",
]
