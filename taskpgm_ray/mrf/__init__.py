"""The Markov random field over tasks: mixtures, their path over the balance, budgets, influence, uncertainty."""

from taskpgm_ray.mrf.addition import add_task
from taskpgm_ray.mrf.budget import Selection, select
from taskpgm_ray.mrf.clusters import Clusters, clusters
from taskpgm_ray.mrf.influence import (
    Influence,
    drop_task,
    energy_sensitivity,
    influence,
    leave_one_out,
    pair_redundancy,
    weight_sensitivity,
)
from taskpgm_ray.mrf.path import MixturePath, path
from taskpgm_ray.mrf.psd import Repair, nearest_conditionally_psd, smallest_eigenvalue
from taskpgm_ray.mrf.solve import Mixture, grid, solve
from taskpgm_ray.mrf.uncertainty import WeightUncertainty, bootstrap, group_jackknife, infinitesimal_jackknife

__all__ = [
    "Clusters",
    "Influence",
    "Mixture",
    "MixturePath",
    "Repair",
    "Selection",
    "WeightUncertainty",
    "add_task",
    "bootstrap",
    "clusters",
    "drop_task",
    "energy_sensitivity",
    "grid",
    "group_jackknife",
    "infinitesimal_jackknife",
    "influence",
    "leave_one_out",
    "nearest_conditionally_psd",
    "pair_redundancy",
    "path",
    "select",
    "smallest_eigenvalue",
    "solve",
    "weight_sensitivity",
]
