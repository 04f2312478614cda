"""The outcome of a study in one sentence."""

from dataclasses import replace

import pytest

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.evaluation.statistics import ONE_SEED, PairedDifference
from taskpgm_ray.judge.comparisons import Comparison
from taskpgm_ray.judge.verdict import CHOSEN, recommended, sentence

NONE = "no difference shown"


def judged(scope="all", metric="gold_logprob", **verdicts):
    result = PairedDifference(metric, 0.1, 0.0, 0.2, 0.5, 0.03, 0.04, 0.14, 0.95, 640, 3)
    return [Comparison("tau-1", name, scope, result, 0.5, verdict) for name, verdict in verdicts.items()]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    model = {"path": str(tmp_path_factory.mktemp("model"))}
    return StudyConfig.model_validate(
        {"study": "s", "model": model, "pool": {"tasks": ["reasoning_gym:gcd"]}, "finetune": {"steps": 1}}
    )


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ({"uniform": NONE}, "No difference from uniform was shown"),
        ({"uniform": NONE, "random": NONE, "text": NONE}, "No difference from uniform, random and text was shown"),
        (
            {"uniform": "better", "random": "better"},
            "is better than uniform and better than random on 640 report items",
        ),
        ({"uniform": "better", "random": NONE}, "; no difference from random was shown."),
        ({"uniform": "worse"}, "is worse than uniform on 640"),
        ({"uniform": NONE, "random": "better"}, "no difference from uniform was shown: use uniform."),
    ],
)
def test_the_sentence_says_better_worse_or_nothing_shown(config, verdicts, said):
    assert said in sentence(judged(**verdicts), config)


@pytest.mark.parametrize(
    ("verdicts", "advised"),
    [({"uniform": NONE, "random": "better"}, True), ({"uniform": "better", "random": "better"}, False)],
)
def test_uniform_is_advised_where_nothing_beats_it(config, verdicts, advised):
    assert sentence(judged(**verdicts), config).endswith(": use uniform.") == advised


def against(**found):
    """Comparisons by (verdict, difference)."""
    return [
        replace(c, verdict=verdict, result=replace(c.result, difference=difference))
        for c, (verdict, difference) in zip(judged(**found), found.values(), strict=True)
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, CHOSEN),
        ({"uniform": ("better", 0.2), "random": ("better", 0.1)}, CHOSEN),
        ({"uniform": ("better", 0.1), "random": (NONE, 0.2)}, CHOSEN),
        # The best baseline is not beaten.
        ({"uniform": (NONE, 0.1), "random": ("better", 0.3)}, "uniform"),
        # It is, but of uniform, whose seeds spread more, nothing is shown.
        ({"uniform": (NONE, 0.3), "random": ("better", 0.1)}, "uniform"),
        ({"uniform": ("worse", -0.1), "random": ("better", 0.3)}, "uniform"),
        ({"proportional": (NONE, 0.1)}, "uniform"),
        ({"uniform": (ONE_SEED, 0.5)}, "uniform"),
        # One fine-tune of another baseline neither hides the verdict nor is recommended for its luck.
        ({"uniform": ("better", 0.2), "random": (ONE_SEED, 0.1)}, CHOSEN),
        ({"uniform": (NONE, 0.2), "random": (ONE_SEED, -0.1)}, "uniform"),
        # It is another one, and uniform is worse than the mixture: nobody should train on uniform.
        ({"uniform": ("better", 0.2), "proportional": (NONE, 0.0)}, "proportional"),
        ({"uniform": ("better", 0.2), "proportional": ("worse", -0.2)}, "proportional"),
    ],
)
def test_what_is_recommended(config, found, expected):
    comparisons = against(**found)
    assert recommended(comparisons, "gold_logprob") == expected
    if found and expected != CHOSEN:
        assert f": use {expected}" in sentence(comparisons, config)


def test_one_seed_is_said_to_show_nothing(config):
    said = sentence(against(uniform=(ONE_SEED, 0.0632), text=(ONE_SEED, -0.01)), config)
    assert said == (
        "With one fine-tune each the TaskPGM mixture scored +0.0632 nats against uniform and -0.0100 nats against text "
        "on 640 report items (gold log-probability). That cannot tell a better mixture from a lucky seed: use uniform, "
        "or raise evaluation.report_seeds."
    )


def test_one_benchmark_or_another_metric_decides_nothing(config):
    nothing = "was not compared with any baseline"
    assert nothing in sentence(judged(scope="mmlu", uniform="better"), config)
    assert nothing in sentence(judged(metric="accuracy", uniform="better"), config)
    assert nothing in sentence([], config)


def test_both_spreads_make_the_standard_error(config):
    assert judged(uniform=NONE)[0].result.standard_error == pytest.approx(0.05)


def test_a_baseline_with_one_fine_tune_does_not_hide_the_verdict_on_the_others(config):
    said = sentence(against(uniform=("better", 0.2), text=(ONE_SEED, -0.01)), config)
    assert said.startswith(
        "The TaskPGM mixture is better than uniform on 640 report items (gold log-probability, 3 fine"
    )
    assert said.endswith(
        " With one fine-tune it scored -0.0100 nats against text, which says nothing (evaluation.other_seeds)."
    )
    said = sentence(against(uniform=(NONE, 0.0), text=(ONE_SEED, -0.01)), config)
    assert said.startswith("No difference from uniform was shown on 640")
    assert ": use uniform. With one fine-tune it scored" in said
