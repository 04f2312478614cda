"""When more fine-tunes are asked for, and what several looks cost in confidence."""

import numpy as np
import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.evaluation import ItemScore
from taskpgm_ray.judge.comparisons import compare, decisive
from taskpgm_ray.judge.looks import confidence_of_a_look, confidence_with_most, look_until_settled
from taskpgm_ray.judge.verdict import sentence
from taskpgm_ray.workload import FineTunes, fine_tunes, report_looks, report_seeds


def study(**evaluation):
    return load_config(
        {
            "study": "s",
            "model": {"path": "none"},
            "pool": {"tasks": ["reasoning_gym:gcd", "reasoning_gym:lcm"]},
            "finetune": {"steps": 1},
            "search": {"seeds": 2, "choose": "best"},
            "evaluation": evaluation,
        }
    )


def scores(effect, spread, seeds, rng):
    """Rows of (system, seed): ten items whose scores move with the fine-tune's luck."""

    def of(name, seed):
        level = (effect if name == "ours" else 0.0) + spread * rng.normal()
        values = level + 0.01 * rng.normal(size=10)
        return [ItemScore("mmlu", f"t{i % 2}", str(i), 0.5, float(v), seed) for i, v in enumerate(values)]

    kept = {}

    def score(count):
        counts = {"ours": count, "uniform": count, "proportional": seeds}
        return {
            name: [r for seed in range(n) for r in kept.setdefault((name, seed), of(name, seed))]
            for name, n in counts.items()
        }

    return score, kept


def looked(effect, spread, **evaluation):
    config = study(**evaluation)
    score, kept = scores(effect, spread, report_looks(config)[0], np.random.default_rng(3))
    rows, found = look_until_settled("ours", ["uniform", "proportional"], score, config)
    return len({seed for name, seed in kept if name == "ours"}), rows, found, config


AUTO = {"report_seeds": "auto", "smallest_effect": 0.1}


def test_a_fixed_number_is_one_look():
    assert report_looks(study(report_seeds=5)) == (5,)
    assert confidence_of_a_look(study(report_seeds=5, confidence=0.9)) == pytest.approx(0.9)
    assert looked(0.0, 0.5, report_seeds=5)[0] == 5


def test_looks_grow_by_half_up_to_the_most():
    assert report_looks(study(**AUTO)) == (3, 5, 8, 12)
    assert report_looks(study(**AUTO, most_report_seeds=10)) == (3, 5, 8, 10)
    assert report_looks(study(**AUTO, most_report_seeds=4)) == (3, 4)
    assert list(report_seeds(study(**AUTO))) == [2, 3, 4]
    assert list(report_seeds(study(**AUTO), 5)) == [2, 3, 4, 5, 6]


def test_every_look_asks_for_more_confidence_the_more_there_are():
    levels = [1 - confidence_of_a_look(study(**AUTO, most_report_seeds=most)) for most in (4, 5, 8, 12, 18)]
    assert levels[0] == levels[1] == pytest.approx(0.05 / 1.79, rel=0.01)
    assert levels[1:] == sorted(levels, reverse=True)[1:]
    # Never less strict than Pocock's bound for known spreads, never stricter than Bonferroni's.
    for looks, level, pocock in zip((2, 3, 4, 5), levels[1:], (0.0294, 0.0221, 0.0182, 0.0158), strict=True):
        assert 0.05 / looks < level < pocock


def test_the_confidence_of_a_study_that_may_still_ask_for_more():
    assert confidence_with_most(12, 0.95) == confidence_of_a_look(study(**AUTO))
    assert confidence_with_most(18, 0.9) == pytest.approx(1 - 0.1 / 5**0.84)


def test_a_large_difference_and_a_narrow_interval_end_it_early():
    seeds, _, found, _ = looked(2.0, 0.02, **AUTO)
    assert seeds == 3
    assert {c.verdict for c in decisive(found, "gold_logprob")} == {"better"}
    seeds, _, found, _ = looked(0.0, 0.003, **AUTO)
    assert seeds == 3
    (uniform,) = (c.result for c in decisive(found, "gold_logprob") if c.baseline == "uniform")
    assert uniform.high - uniform.low <= 0.1


def test_where_seeds_are_the_noise_more_of_them_are_asked_for():
    seeds, rows, found, config = looked(0.0, 0.5, **AUTO)
    assert seeds == 12
    by_baseline = {c.baseline: c.result for c in decisive(found, "gold_logprob")}
    assert (by_baseline["uniform"].seeds, by_baseline["proportional"].seeds) == (12, 3)
    assert by_baseline["uniform"].confidence == confidence_of_a_look(config)
    # The other baselines are compared on the seeds that both have: as if there had been no others.
    first = {name: [row for row in of if row.seed < 3] for name, of in rows.items()}
    (alone,) = decisive(
        compare("ours", first, ["proportional"], confidence_of_a_look(config), config.seed), "gold_logprob"
    )
    assert by_baseline["proportional"] == alone.result
    assert "3 to 12 fine-tunes each, 95% intervals over up to 4 looks together" in sentence(found, config)
    sure = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"confidence": 0.995})})
    assert "99.5% intervals over up to 4 looks" in sentence(found, sure)


def test_the_plan_counts_the_most_that_may_be_needed():
    (finalists,) = (row for row in fine_tunes(study(**AUTO), 5) if row.kind == "finalists")
    # Three methods with three seeds, and nine more of the winner and of uniform.
    assert finalists == FineTunes("finalists", 3 * 3 + 2 * 9)


@pytest.mark.parametrize(
    ("evaluation", "search", "message"),
    [
        ({"report_seeds": "auto"}, {}, "report_seeds: auto and smallest_effect go together"),
        ({"smallest_effect": 0.1}, {}, "report_seeds: auto and smallest_effect go together"),
        (AUTO, {"baselines": ["proportional"]}, "auto compares with uniform; add it to search.baselines"),
    ],
)
def test_what_auto_needs(evaluation, search, message):
    with pytest.raises(ConfigError, match=message):
        load_config(
            {
                "study": "s",
                "pool": {"tasks": ["reasoning_gym:gcd"]},
                "finetune": {"steps": 1},
                "search": search,
                "evaluation": evaluation,
            }
        )
