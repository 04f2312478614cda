"""What `jobs/real_study.py --record` keeps of a study."""

import importlib.util
import json
from pathlib import Path

import pytest

from taskpgm_ray.evaluation.statistics import PairedDifference
from taskpgm_ray.judge.comparisons import Comparison
from taskpgm_ray.judge.rows import SeedScores
from taskpgm_ray.report.data import TrialRow
from taskpgm_ray.runtime.progress import StageCost

FILE = Path(__file__).resolve().parents[2] / "jobs" / "real_study.py"


def test_a_record_holds_what_was_judged(report_data):
    spec = importlib.util.spec_from_file_location("real_study", FILE)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    result = PairedDifference("gold_logprob", 0.06, 0.04, 0.08, 0.01, 0.011, 0.022, 0.05, 0.95, 120, 3)
    versus = [Comparison("tau-0.5", "uniform", scope, result, 0.012, "better") for scope in ("all", "bbh")]
    data = report_data(
        3,
        comparisons=versus,
        against_uniform=versus,
        trials=[
            TrialRow(name=name, kind="balance", weights=[0.5, 0.3, 0.2], seed=seed, gold_logprob=-1.0)
            for name in ("tau-0.5", "tau-1.5")
            for seed in (0, 1)
        ],
        by_seed=[SeedScores("tau-0.5", seed, -1.5, 0.25) for seed in (2, 3)],
        stages=[StageCost("tasks", 1800.0), StageCost("search", 5400.0)],
    )
    found = json.loads(json.dumps(made.record(data, "python jobs/real_study.py --config x.yaml")))
    assert found["chosen"] == "tau-0.5"
    assert found["hours"] == pytest.approx(2.0)
    assert found["weights"] == {"tau-0.5": [0.5, 0.3, 0.2]}
    assert found["tasks"] == data.names
    assert [one["scope"] for one in found["against_uniform"]] == ["all", "bbh"]
    assert found["against_uniform"][0] | {"p_holm": 0.012, "seeds": 3, "low": 0.04} == found["against_uniform"][0]
    assert found["by_seed"][1] == {"system": "tau-0.5", "seed": 3, "gold_logprob": -1.5, "accuracy": 0.25}
