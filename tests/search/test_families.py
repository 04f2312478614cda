"""The families of a search: affinities that it refuses, and the paper's shortcut."""

import numpy as np
import pytest

from taskpgm_ray.affinity import pmi_kernel, pmi_pairwise, pmi_profile
from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.config import load_config
from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import Limits
from taskpgm_ray.mrf.paper import shortcut
from taskpgm_ray.search.candidates import Pool, candidates
from taskpgm_ray.search.families import families, refuse_free


def test_an_affinity_whose_null_vector_is_a_mixture_is_refused():
    rng = np.random.default_rng(0)
    gold, owner = rng.normal(-2, 0.5, size=(5, 50)), np.repeat(np.arange(5), 10)
    refuse_free(pmi_kernel(gold, owner), "pmi")
    with pytest.raises(InputError, match=r"the affinity 'own' has a mixture without energy .*diversity cannot tell"):
        refuse_free(pmi_profile(gold, owner), "own")
    # Clones make S singular too, but along a difference of tasks, which is no mixture.
    refuse_free(np.array([[1.0, 1.0, 0.2], [1.0, 1.0, 0.2], [0.2, 0.2, 1.0]]), "clones")


def test_the_papers_shortcut_is_a_baseline_with_mixtures_of_its_own():
    rng = np.random.default_rng(1)
    n = 6
    places, table = rng.normal(size=(n, 4)), rng.normal(size=(n, n)) + 2 * np.eye(n)
    D = ((places[:, None] - places[None]) ** 2).sum(-1) / 20
    found = Affinities(tuple("abcdef"), D, D, D, table, places @ places.T, D, D, "f")
    search = {"balances": 3, "baselines": ["uniform", "paper"], "tau": [0, 2]}
    config = load_config(
        {
            "study": "s",
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 4},
            "affinity": {"gamma": "median"},
            "search": search,
        }
    )
    # Limits are TaskPGM's; a baseline is what it is.
    limits = Limits(np.full(n, 0.1), np.ones(n))
    jsd, paper = families(found, [], config, limits, None)
    assert jsd.contender
    assert not paper.contender
    S = pmi_pairwise(table)
    made = [one for one in candidates([jsd, paper], Pool([10] * n), config.search) if one.method == "paper"]
    assert made
    for one in made:
        assert one.kind == "baseline"
        np.testing.assert_allclose(one.weights, shortcut(S, one.tau))
    assert min(one.weights.min() for one in made) < 0.1
