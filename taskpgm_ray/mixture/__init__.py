"""From weights to example counts, and the mixtures that TaskPGM is compared with."""

from taskpgm_ray.mixture.apportionment import counts, token_counts
from taskpgm_ray.mixture.baselines import capped_proportional, dirichlet, proportional, temperature, uniform

__all__ = ["capped_proportional", "counts", "dirichlet", "proportional", "temperature", "token_counts", "uniform"]
