"""Which mixtures are tried."""

from itertools import pairwise

import numpy as np
import pytest

from taskpgm_ray.config import SearchConfig
from taskpgm_ray.errors import InputError
from taskpgm_ray.search.candidates import Pool, baselines, distance, equal_clusters, given_labels
from taskpgm_ray.search.candidates import candidates as all_candidates
from taskpgm_ray.search.families import Family, targeted


def family(name="jsd", scale=0.3, utility=None, contender=True, seed=0):
    points = np.random.default_rng(seed).normal(size=(8, 3))
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    return Family(name, name, np.exp(-scale * distances), 1.0, utility, contender)


@pytest.fixture(scope="module")
def mixtures():
    return family().path


def candidates(mixtures, sizes, config, fixed_tau=None):
    return all_candidates([family()], Pool(sizes), config, fixed_tau)


SIZES = [10, 20, 30, 40, 50, 60, 70, 80]


def test_baselines_and_balances(mixtures):
    made = candidates(mixtures, SIZES, SearchConfig(balances=5, tau=(0.0, 4.0)))
    assert [c.name for c in made[:2]] == ["uniform", "proportional"]
    np.testing.assert_allclose(made[0].weights, 1 / 8)
    np.testing.assert_allclose(made[1].weights, np.array(SIZES) / sum(SIZES))
    balances = [c for c in made if c.kind == "balance"]
    assert 4 <= len(balances) <= 5
    taus = [c.tau for c in balances]
    assert taus == sorted(taus)
    assert (taus[0], taus[-1]) == (0.0, 4.0)
    for candidate in made:
        assert candidate.weights.sum() == pytest.approx(1.0)
        assert (candidate.weights >= 0).all()
    for candidate in balances:
        np.testing.assert_allclose(candidate.weights, mixtures.at(candidate.tau))
    assert len({c.name for c in made}) == len(made)


def test_balances_are_at_equal_distances_along_the_path(mixtures):
    made = candidates(mixtures, SIZES, SearchConfig(balances=4, tau=(0.0, 4.0), baselines=()))

    def length(low, high):
        points = np.stack([mixtures.at(float(tau)) for tau in np.linspace(low, high, 400)])
        return np.abs(np.diff(points, axis=0)).sum()

    lengths = [length(a.tau, b.tau) for a, b in pairwise(made)]
    assert len(lengths) == 3
    np.testing.assert_allclose(lengths, np.mean(lengths), rtol=0.02)


def test_a_users_balance_is_the_only_one(mixtures):
    made = candidates(mixtures, SIZES, SearchConfig(balances=5), fixed_tau=2.5)
    assert [(c.name, c.tau) for c in made if c.kind == "balance"] == [("tau-2.5", 2.5)]


def test_a_balance_that_is_a_baseline_is_not_tried_again(mixtures):
    """At tau = 1 the mixture is the uniform one, which is a baseline already."""
    low, high = mixtures.equal_arc(2, tau_min=0.0, tau_max=1.0)
    config = SearchConfig(balances=2, tau=(low, high))
    assert [c.name for c in candidates(mixtures, SIZES, config)] == ["uniform", "proportional", "tau-0"]


def test_someone_has_to_win_even_where_every_balance_is_a_baseline(mixtures):
    made = candidates(mixtures, SIZES, SearchConfig(balances=1), fixed_tau=1.0)
    assert [c.name for c in made] == ["uniform", "proportional", "tau-1"]


def test_baselines_that_are_one_mixture_are_trained_once(mixtures):
    made = candidates(mixtures, [7] * len(SIZES), SearchConfig(balances=1), fixed_tau=0.0)
    assert [c.name for c in made] == ["uniform", "tau-0"]


@pytest.mark.parametrize("baselines", [("uniform",), ("proportional", "uniform"), ()])
def test_the_configured_baselines_in_their_order(mixtures, baselines):
    made = candidates(mixtures, SIZES, SearchConfig(balances=2, baselines=baselines))
    assert tuple(c.name for c in made if c.kind == "baseline") == baselines


def test_every_baseline_is_a_trial():
    names = ("uniform", "proportional", "temperature", "capped", "random")
    config = SearchConfig(balances=1, baselines=names, temperature=2.0, cap=25)
    made = {c.name: c.weights for c in all_candidates([family()], Pool(SIZES), config, seed=3) if c.kind == "baseline"}
    assert tuple(made) == names
    roots = np.sqrt(SIZES)
    np.testing.assert_allclose(made["temperature"], roots / roots.sum())
    np.testing.assert_allclose(made["capped"], np.minimum(SIZES, 25) / np.minimum(SIZES, 25).sum())
    again = all_candidates([family()], Pool(SIZES), config, seed=4)
    assert not np.allclose(made["random"], next(c.weights for c in again if c.name == "random"))


def test_families_are_told_apart_by_name_and_comparators_cannot_win():
    made = all_candidates(
        [family("jsd"), family("pmi", 0.5, seed=1), family("text", 0.4, contender=False, seed=2)],
        Pool(SIZES),
        SearchConfig(balances=3, tau=(0.0, 3.0)),
    )
    assert {c.method for c in made} == {"uniform", "proportional", "jsd", "pmi", "text"}
    assert all(c.name.startswith(f"{c.method}-tau-") for c in made if c.tau is not None)
    assert {c.method for c in made if c.kind == "balance"} == {"jsd", "pmi"}
    assert len({c.name for c in made}) == len(made)


def test_near_equal_mixtures_of_different_families_are_merged():
    config = SearchConfig(balances=5, tau=(0.0, 3.0), merge_distance=0.05)
    almost = Family("almost", "jsd", family().S + 1e-6 * np.eye(8), 1.0, None, contender=True)
    made = all_candidates([family(), almost], Pool(SIZES), config)
    assert sum(c.method == "jsd" for c in made) > 2
    # All but the one that keeps the family in the race.
    assert sum(c.method == "almost" for c in made) == 1
    others = [c for c in made if c.method != "almost"]
    assert min(distance(a, b) for i, a in enumerate(others) for b in others[:i]) > 0.05


def test_a_targeted_utility_prefers_the_tasks_whose_adapters_gain():
    S = family().S
    lift = np.array([0, 0, 0, 0.5, 0, 0, 0, -0.5])
    utility = targeted(S, lift)
    # As strong as the row sums, and at least as what sets a task apart from the others.
    apart = S[0, 0] - S[~np.eye(8, dtype=bool)].mean()
    assert max(S.sum(axis=1).std(), apart) == pytest.approx(utility.std())
    # Whatever constant is added to S, which changes no mixture.
    np.testing.assert_allclose(np.ptp(targeted(S + 3.0, lift) - utility), 0, atol=1e-9)
    alike = np.eye(8)
    alike[:5, :5] = 0.9 + 0.1 * np.eye(5)
    assert 1 < targeted(alike, lift).std() == pytest.approx(alike.sum(axis=1).std())
    path = Family("jsd-targeted", "jsd", S, 1.0, utility, contender=True).path
    assert path.weights[-1].argmax() == 3
    # Where all gain the same, no task is preferred: every balance is that of pure diversity.
    flat = Family("jsd-targeted", "jsd", S, 1.0, targeted(S, np.full(8, 0.3)), contender=True).path
    np.testing.assert_allclose(flat.at(3.0), flat.at(0.0), atol=1e-9)


def test_size_proportional_is_that_of_the_sources():
    """SST-2, MNLI, GSM8K and AG News, as they are published; a study reads a few thousand rows of each."""
    sizes = [67_349, 392_702, 7_473, 120_000]
    (one,), _ = baselines(Pool(sizes), SearchConfig(baselines=("proportional",)), seed=0)
    np.testing.assert_allclose(one.weights, [0.115, 0.668, 0.013, 0.204], atol=5e-4)


def test_equal_loss_follows_what_each_task_has_learned():
    config = SearchConfig(baselines=("equal_loss",))
    (one,), left_out = baselines(Pool([5, 5, 5], loss_drops=[0.3, 0.1, -0.2]), config, seed=0)
    np.testing.assert_allclose(one.weights, [0.75, 0.25, 0.0])
    assert left_out == {}
    none, left_out = baselines(Pool([5, 5], loss_drops=[0.0, -0.1]), config, seed=0)
    assert none == []
    assert "no task's own fine-tune lowered its loss" in left_out["equal_loss"]


def test_a_random_mixture_is_another_one_for_every_seed():
    (one,), _ = baselines(Pool(SIZES), SearchConfig(baselines=("random",)), seed=3)
    np.testing.assert_array_equal(one.at_seed(3), one.weights)
    draws = [one.at_seed(seed) for seed in range(3, 8)]
    assert all(np.abs(a - b).sum() > 0.1 for a, b in pairwise(draws))
    (fixed,), _ = baselines(Pool(SIZES), SearchConfig(baselines=("uniform",)), seed=3)
    np.testing.assert_array_equal(fixed.at_seed(4), fixed.weights)


def test_baselines_that_are_left_out_are_named():
    config = SearchConfig(baselines=("uniform", "proportional", "capped", "random"))
    made, left_out = baselines(Pool([7] * 8), config, seed=0)
    assert [one.name for one in made] == ["uniform", "random"]
    assert left_out == dict.fromkeys(("proportional", "capped"), "it is the mixture of uniform (nearer than 0.02)")


def test_a_mixture_of_ones_own(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("task,weight\na,30\nc,10\n")
    config = SearchConfig(baselines=(f"mixture:{file}",))
    (one,), _ = baselines(Pool([5, 5, 5], names=["a", "b", "c"]), config, seed=0)
    assert (one.name, one.kind, one.method) == ("given-mine", "baseline", "given-mine")
    np.testing.assert_allclose(one.weights, [0.75, 0.0, 0.25])
    with pytest.raises(InputError, match=r"mine.csv names 'c', which is not among the tasks: a, b"):
        baselines(Pool([5, 5], names=["a", "b"]), config, seed=0)


def test_mixtures_of_one_file_name_are_two(tmp_path):
    for folder, weight in (("x", 1), ("y", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mix.csv").write_text(f"task,weight\na,{weight}\nb,1\n")
    config = SearchConfig(baselines=tuple(f"mixture:{tmp_path}/{folder}/mix.csv" for folder in "xy"))
    made, _ = baselines(Pool([5, 5], names=["a", "b"]), config, seed=0)
    whole = "-".join(tmp_path.parts[1:])
    assert [one.name for one in made] == [f"given-{whole}-x-mix.csv", f"given-{whole}-y-mix.csv"]
    np.testing.assert_allclose([one.weights for one in made], [[0.5, 0.5], [0.75, 0.25]])
    assert given_labels(["uniform", "mixture:a/mix.csv", "mixture:mix.csv", "mixture:b.csv"]) == {
        "mixture:a/mix.csv": "given-a-mix.csv", "mixture:mix.csv": "given-mix.csv", "mixture:b.csv": "given-b"
    }  # fmt: skip


def test_equal_shares_of_clusters():
    """Two twins and three strangers: with four clusters the twins share what a stranger has."""
    S = np.eye(5)
    S[0, 1] = S[1, 0] = 0.95
    np.testing.assert_allclose(equal_clusters(S, 4), [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4])
    np.testing.assert_allclose(equal_clusters(S, 5), np.full(5, 1 / 5))
    np.testing.assert_allclose(equal_clusters(S, 1), np.full(5, 1 / 5))
    config = SearchConfig(baselines=("uniform", "clusters:4", "clusters:9"))
    made, left_out = baselines(Pool([10] * 5, affinity=S), config, 0)
    assert [one.name for one in made] == ["uniform", "clusters-4"]
    assert "count must be from 1 to 5, got 9" in left_out["clusters:9"]
    with pytest.raises(ValueError, match="clusters:K"):
        SearchConfig(baselines=("clusters:0",))
