"""The families of a search: affinities that it refuses, and the paper's shortcut."""

import numpy as np
import pytest

from taskpgm_ray.affinity import pmi_kernel, pmi_pairwise, pmi_profile
from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.config import load_config
from taskpgm_ray.errors import InputError
from taskpgm_ray.mrf import Limits, certificate, repaired, solve
from taskpgm_ray.mrf.paper import laplacian, shortcut
from taskpgm_ray.report.repair import repair_sentence
from taskpgm_ray.search.candidates import Pool, candidates
from taskpgm_ray.search.families import Family, families, own_family, refuse_free
from taskpgm_ray.workload import contenders, noise_tasks


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
    found = Affinities(tuple("abcdef"), D, D, D, table, places @ places.T, table, D, D, "f")
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


def test_the_papers_laplacian_is_a_baseline_within_the_limits():
    rng = np.random.default_rng(1)
    n = 6
    D, table = np.zeros((n, n)), rng.normal(size=(n, n)) + 2 * np.eye(n)
    found = Affinities(tuple("abcdef"), D, D, D, table, np.eye(n), table, D, D, "f")
    config = load_config(
        {
            "study": "s",
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 4},
            "affinity": {"kind": "pmi_pairwise"},
            "search": {"balances": 3, "baselines": ["uniform", "laplacian"], "tau": [0, 40]},
        }
    )
    limits = Limits(np.full(n, 0.1), np.ones(n), target=np.arange(1, n + 1) / (n * (n + 1) / 2))
    own, graph = families(found, [], config, limits, None)
    assert (own.contender, graph.contender) == (True, False)
    made = [one for one in candidates([own, graph], Pool([10] * n), config.search) if one.method == "laplacian"]
    assert [one.kind for one in made] == ["baseline"] * len(made)
    L, degrees = laplacian(pmi_pairwise(table))
    for one in made:
        best = solve(L, one.tau, utility=degrees, lower=limits.lower)
        np.testing.assert_allclose(one.weights, best.weights, atol=1e-9)
    assert min(one.weights.min() for one in made) == pytest.approx(0.1)


@pytest.mark.parametrize("answer", ["mean", "sum"])
@pytest.mark.parametrize("repair", ["project", "shift", "clip"])
def test_pairwise_pmi_is_an_affinity_of_its_own_once_it_is_mended(repair, answer):
    rng = np.random.default_rng(1)
    n = 7
    D, table = np.zeros((n, n)), rng.normal(size=(n, n)) * 3
    of_tokens, of_answers = (table, table.T + 1) if answer == "mean" else (table.T + 1, table)
    found = Affinities(tuple("abcdefg"), D, D, D, of_tokens, np.eye(n), of_tokens, of_answers, D, "f")
    config = load_config(
        {
            "study": "s",
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 4},
            "affinity": {"kind": "pmi_pairwise", "repair": repair, "answer": answer},
            "search": {"balances": 3, "gammas": [1, 2]},
        }
    )
    # It is no kernel: bandwidths make no variants of it, and no task is fine-tuned twice.
    assert contenders(config) == 1
    assert noise_tasks(config, 20) == 0
    (family,) = families(found, [], config, Limits.none(n), None)
    S, change = repaired(pmi_pairwise(table), repair)
    np.testing.assert_array_equal(family.S, S)
    assert family.repair == change
    assert family.contender
    # Where a repair leaves S singular, several mixtures are best: what is equal is the energy.
    energy, gap = certificate(S, 0.7, family.path.at(0.7))
    assert energy == pytest.approx(solve(S, 0.7).energy, abs=1e-8)
    assert gap < 1e-8
    said = repair_sentence(family, 0.7)
    others = {"project", "shift", "clip"} - {repair}
    assert all(f"affinity.repair={one}" in said for one in others)
    assert f"affinity.repair={repair}" not in said
    own = own_family(found, config, Limits.none(n))
    np.testing.assert_array_equal(own.S, S)
    assert repair_sentence(Family("jsd", "jsd", np.eye(3), 1.0, None, contender=True), 0.5) == ""
