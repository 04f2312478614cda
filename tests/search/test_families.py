"""Affinities that a search refuses."""

import numpy as np
import pytest

from taskpgm_ray.affinity import pmi_kernel, pmi_profile
from taskpgm_ray.errors import InputError
from taskpgm_ray.search.families import refuse_free


def test_an_affinity_whose_null_vector_is_a_mixture_is_refused():
    rng = np.random.default_rng(0)
    gold, owner = rng.normal(-2, 0.5, size=(5, 50)), np.repeat(np.arange(5), 10)
    refuse_free(pmi_kernel(gold, owner), "pmi")
    with pytest.raises(InputError, match=r"the affinity 'own' has a mixture without energy .*diversity cannot tell"):
        refuse_free(pmi_profile(gold, owner), "own")
    # Clones make S singular too, but along a difference of tasks, which is no mixture.
    refuse_free(np.array([[1.0, 1.0, 0.2], [1.0, 1.0, 0.2], [0.2, 0.2, 1.0]]), "clones")
