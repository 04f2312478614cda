"""The outcome of a study in one sentence."""

import pytest

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.judge.comparisons import Comparison
from taskpgm_ray.judge.statistics import PairedDifference
from taskpgm_ray.judge.verdict import sentence

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
    [({"uniform": NONE, "random": "better"}, True), ({"uniform": "better", "random": NONE}, False)],
)
def test_uniform_is_advised_where_nothing_beats_it(config, verdicts, advised):
    assert sentence(judged(**verdicts), config).endswith(": use uniform.") == advised


def test_one_benchmark_or_another_metric_decides_nothing(config):
    nothing = "was not compared with any baseline"
    assert nothing in sentence(judged(scope="mmlu", uniform="better"), config)
    assert nothing in sentence(judged(metric="accuracy", uniform="better"), config)
    assert nothing in sentence([], config)


def test_both_spreads_make_the_standard_error(config):
    assert judged(uniform=NONE)[0].result.standard_error == pytest.approx(0.05)
