"""The marginal utility: which merges are asked for, and what it says of tasks that harm."""

from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.config import load_config
from taskpgm_ray.mrf import Limits
from taskpgm_ray.search.families import families
from taskpgm_ray.search.marginal import measure_marginal

NAMES = ("useful", "copy", "idle", "harmful")


class Merged:
    """Stands for merges: scores by the mixture, and what was asked."""

    def __init__(self, score):
        self.jobs = [SimpleNamespace(name=name) for name in NAMES]
        self.score, self.asked = score, []

    def scores(self, mixtures):
        self.asked = mixtures
        return np.array([self.score(one.weights) for one in mixtures])


def test_each_task_is_left_out_once():
    merged = Merged(lambda p: 0.0)
    assert measure_marginal(merged).tolist() == [0] * 4
    assert [one.name for one in merged.asked] == ["all-tasks", *(f"without-{name}" for name in NAMES)]
    np.testing.assert_allclose(merged.asked[0].weights, 0.25)
    np.testing.assert_allclose([one.weights for one in merged.asked[1:]], (1 - np.eye(4)) / 3)


def test_of_a_score_that_is_linear_it_is_the_gradient_around_its_mean():
    gain = np.array([0.3, 0.2, 0.0, -0.4])
    found = measure_marginal(Merged(lambda p: gain @ p - 1.0))
    np.testing.assert_allclose(found, (gain - gain.mean()) / 3)
    assert found.argmin() == NAMES.index("harmful")


def test_of_two_copies_each_is_worth_little_where_one_is_enough():
    found = measure_marginal(Merged(lambda p: min(p[0] + p[1], 0.3) - p[3]))
    assert found[0] == found[1] < found[2] + 0.1
    assert found[3] < 0 < found[2]


@pytest.fixture
def pool():
    n = len(NAMES)
    D = 1.0 - np.eye(n)
    found = Affinities(NAMES, D, D, D, D, np.eye(n), D, D, D, "f")
    config = load_config(
        {
            "study": "s",
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 4},
            "affinity": {"gamma": "median"},
            "search": {"balances": 3, "utilities": ["rows", "marginal"], "baselines": ["uniform"]},
        }
    )
    return found, config


def test_a_family_of_it_takes_weight_from_what_harms(pool):
    found, config = pool
    marginal = np.array([0.01, 0.01, 0.0, -0.02])
    rows, own = families(found, [], config, Limits.none(4), {"marginal": marginal})
    assert (rows.name, own.name) == ("jsd", "jsd-marginal")
    assert rows.utility is None
    # Equally far apart tasks have equal row sums: by them nothing can be told, by what was measured it can.
    np.testing.assert_allclose(rows.path.at(3.0), 0.25)
    S = rows.S
    assert own.utility.std() == pytest.approx(S[0, 0])
    moved = (own.utility - own.utility.mean()) / 4
    np.testing.assert_allclose(own.path.at(0.2), 0.25 + 0.2 * moved / (S[0, 0] - S[0, 1]))
    assert own.path.at(1.0)[3] == 0


def test_its_order_is_the_measured_one(pool):
    found, config = pool
    D = np.abs(np.subtract.outer([0, 1, 2, 4.0], [0, 1, 2, 4.0]))
    found = Affinities(NAMES, D, D, D, D, np.eye(4), D, D, D, "f")
    rows, own = families(found, [], config, Limits.none(4), {"marginal": np.array([0.01, 0.012, 0.0, -0.02])})
    # The last task is unlike all others, which diversity rewards.
    assert rows.path.at(0.5)[3] > 0.25
    shares = [own.path.at(tau)[3] for tau in (0.0, 0.3, 0.6, 1.0, 3.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.1 < shares[0]
    np.testing.assert_array_equal(np.argsort(own.utility), [3, 2, 0, 1])
