import numpy as np
from families import FAMILIES

from taskpgm_ray.mrf import select
from taskpgm_ray.mrf.solvers.greedy import Greedy
from taskpgm_ray.mrf.solvers.problem import build


def test_lazy_bounds_save_solves():
    S = FAMILIES["gaussian"](150, np.random.default_rng(2))
    engine = Greedy(build(S), 0.5, 10)
    order, plain = engine.grow()
    assert len(order) == 10
    # One per chosen task and a few whose bound was not attained; plain greedy solves 1,500.
    assert engine.solved < 40
    found = select(S, 10, 0.5)
    assert found.greedy_energy == plain.energy
    assert found.energy <= plain.energy
