"""Affinities between tasks from what their models predict: numpy, scipy and numba only."""

from taskpgm_ray.affinity.distributions import balanced_weights
from taskpgm_ray.affinity.jsd import bracket, example_divergences, jsd_matrix, jsd_rows
from taskpgm_ray.affinity.jsd_sums import JSDSums
from taskpgm_ray.affinity.kernels import effective_number, kernel, median_gamma
from taskpgm_ray.affinity.mutual_information import (
    lift,
    pmi,
    pmi_kernel,
    pmi_matrix,
    pmi_pairwise,
    pmi_profile,
    pmi_standard_errors,
    pmi_symmetric,
)
from taskpgm_ray.affinity.standard_errors import jackknife
from taskpgm_ray.affinity.text import text_affinity

__all__ = [
    "JSDSums",
    "balanced_weights",
    "bracket",
    "effective_number",
    "example_divergences",
    "jackknife",
    "jsd_matrix",
    "jsd_rows",
    "kernel",
    "lift",
    "median_gamma",
    "pmi",
    "pmi_kernel",
    "pmi_matrix",
    "pmi_pairwise",
    "pmi_profile",
    "pmi_standard_errors",
    "pmi_symmetric",
    "text_affinity",
]
