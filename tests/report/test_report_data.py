import subprocess
import sys

import numpy as np
import pytest

from taskpgm_ray.errors import InputError
from taskpgm_ray.judge.rows import SeedScores
from taskpgm_ray.report.data import TaskRow, TrialRow


def test_weights_and_balance_come_from_the_mixture(report_data):
    data = report_data(6)
    np.testing.assert_array_equal(data.weights, [task["weight"] for task in data.mixture["tasks"]])
    assert data.tau == 0.5
    assert data.coverage_names == ["base", *data.names]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"affinity": np.eye(5)}, r"affinity has shape \(5, 5\); the report's tasks need \(6, 6\)"),
        ({"divergence": np.full((6, 6), np.nan)}, "divergence holds NaN"),
        ({"coverage": np.ones((6, 6))}, r"coverage has shape \(6, 6\)"),
        ({"path_tau": None}, "path_tau and path_weights go together"),
        ({"path_weights": np.ones((2, 6))}, "path_weights has shape"),
        ({"baselines": {"uniform": np.ones(5) / 5}}, "baseline 'uniform' has shape"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": [TaskRow(name=f"other{i}") for i in range(6)]}, "are not the report's tasks"),
    ],
)
def test_pieces_that_do_not_fit_together_are_refused(report_data, changes, message):
    with pytest.raises(InputError, match=message):
        report_data(6, **changes)


def test_trials_are_ranked_by_the_mean_over_seeds(report_data):
    def one(name, seed, value):
        return TrialRow(name=name, kind="baseline", seed=seed, weights=[1 / 6] * 6, gold_logprob=value)

    trials = [
        one("lucky", 0, -1.0),
        one("good", 0, -1.1),
        one("lucky", 1, -3.0),
        one("good", 1, -1.2),
        one("x", 0, None),
    ]
    ranked = report_data(6, trials=trials).ranked_trials()
    assert [(t.name, t.seed) for t in ranked] == [("good", 0), ("good", 1), ("lucky", 0), ("lucky", 1), ("x", 0)]


def test_a_trial_knows_its_benchmarks_apart():
    mmlu = {"accuracy": 0.3, "gold_logprob": -1.4}
    trial = TrialRow(
        name="t", kind="balance", weights=[1.0], accuracy=0.25, gold_logprob=-1.5,
        benchmarks={"mmlu": mmlu, "own_tasks": {"accuracy": 0.2, "gold_logprob": -2.0}},
    )  # fmt: skip
    metrics = ("accuracy", "gold_logprob", "mmlu_accuracy", "mmlu_gold_logprob", "own_tasks_gold_logprob")
    assert [trial.value(metric) for metric in metrics] == [0.25, -1.5, 0.3, -1.4, -2.0]
    assert trial.value("bbh_accuracy") is None
    assert trial.value("loss") is None


def test_scores_by_seed_know_their_metrics():
    row = SeedScores("uniform", 0, gold_logprob=-1.5, accuracy=0.25)
    assert (row.value("gold_logprob"), row.value("accuracy")) == (-1.5, 0.25)
    with pytest.raises(InputError, match="no metric 'loss' by seed; there are: gold_logprob, accuracy"):
        row.value("loss")


def test_a_loss_drops_only_where_both_are_known():
    assert TaskRow(name="a", heldout_loss_before=2.0, heldout_loss_after=1.5).loss_drop == 0.5
    assert TaskRow(name="a", heldout_loss_before=2.0).loss_drop is None


def test_importing_the_package_loads_no_renderer():
    code = (
        "import sys, taskpgm_ray.report;"
        "heavy = {'plotly', 'scipy', 'rich', 'ray', 'torch', 'pyarrow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
