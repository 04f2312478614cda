"""The Markov random field over tasks: mixtures, their path over the balance, budgets, influence, uncertainty."""

from taskpgm_ray.mrf.clustering import Clusters, clusters
from taskpgm_ray.mrf.groups import Group
from taskpgm_ray.mrf.limits import Limits
from taskpgm_ray.mrf.mixture import Mixture, certificate, grid, solve, solve_grouped
from taskpgm_ray.mrf.mixture_path import MixturePath, path
from taskpgm_ray.mrf.paper import Shortcut, beside_exact, laplacian, shortcut
from taskpgm_ray.mrf.selection import Selection, select
from taskpgm_ray.mrf.task_influence import (
    Influence,
    drop_task,
    energy_sensitivity,
    influence,
    leave_one_out,
    pair_redundancy,
    sensitivity_factors,
    weight_sensitivity,
)
from taskpgm_ray.mrf.uncertainty import WeightUncertainty, bootstrap, group_jackknife, infinitesimal_jackknife
from taskpgm_ray.numerics.psd import Repair, RepairMethod, nearest_conditionally_psd, repaired, smallest_eigenvalue

__all__ = [
    "Clusters",
    "Group",
    "Influence",
    "Limits",
    "Mixture",
    "MixturePath",
    "Repair",
    "RepairMethod",
    "Selection",
    "Shortcut",
    "WeightUncertainty",
    "beside_exact",
    "bootstrap",
    "certificate",
    "clusters",
    "drop_task",
    "energy_sensitivity",
    "grid",
    "group_jackknife",
    "infinitesimal_jackknife",
    "influence",
    "laplacian",
    "leave_one_out",
    "nearest_conditionally_psd",
    "pair_redundancy",
    "path",
    "repaired",
    "select",
    "sensitivity_factors",
    "shortcut",
    "smallest_eigenvalue",
    "solve",
    "solve_grouped",
    "weight_sensitivity",
]
