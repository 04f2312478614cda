"""Affinities between tasks from what their models predict: numpy, scipy and numba only."""

from taskpgm_ray.affinity.coarse import balanced_weights, tail_mass
from taskpgm_ray.affinity.errors_of import jackknife, mean_standard_error
from taskpgm_ray.affinity.jsd import bracket, example_divergences, jsd_matrix
from taskpgm_ray.affinity.kernels import effective_number, kernel, linear_kernel, median_gamma, squared_distances
from taskpgm_ray.affinity.pmi import lift, pmi, pmi_matrix, pmi_profile, pmi_standard_errors, pmi_symmetric
from taskpgm_ray.affinity.sums import JSDSums
from taskpgm_ray.affinity.text import text_affinity

__all__ = [
    "JSDSums",
    "balanced_weights",
    "bracket",
    "effective_number",
    "example_divergences",
    "jackknife",
    "jsd_matrix",
    "kernel",
    "lift",
    "linear_kernel",
    "mean_standard_error",
    "median_gamma",
    "pmi",
    "pmi_matrix",
    "pmi_profile",
    "pmi_standard_errors",
    "pmi_symmetric",
    "squared_distances",
    "tail_mass",
    "text_affinity",
]
