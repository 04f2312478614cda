"""What seeds are worth beside the differences between trials."""

from dataclasses import replace

import numpy as np
import pytest

from taskpgm_ray.judge.rows import SeedScores
from taskpgm_ray.report.data import TrialRow
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.noise import indistinct, seed_spread, sentence


def seeds(system, *scores):
    return [SeedScores(system, seed, gold_logprob=value, accuracy=0.5) for seed, value in enumerate(scores)]


def trials(**scores):
    return [
        TrialRow(name=name, kind="balance", tau=1.0, seed=0, weights=[1 / 6] * 6, gold_logprob=value)
        for name, value in scores.items()
    ]


def test_the_spread_is_pooled_within_systems(report_data):
    a, b = [-1.0, -1.2, -1.4], [-3.0, -3.1]
    data = report_data(by_seed=[*seeds("a", *a), *seeds("b", *b), *seeds("base model", -9.0)])
    pooled = np.sqrt((2 * np.var(a, ddof=1) + np.var(b, ddof=1)) / 3)
    assert seed_spread(data) == pytest.approx(pooled)


def test_without_repeated_fine_tunes_nothing_is_said(report_data):
    data = report_data(by_seed=seeds("a", -1.0))
    assert seed_spread(data) is None
    assert sentence(data) is None
    assert "seed alone" not in study_table(data, "command")


def test_balances_within_the_luck_of_two_seeds_are_counted(report_data):
    tried = trials(best=-1.0, near=-1.27, far=-1.29)
    baseline = [replace(trials(uniform=-1.0)[0], kind="baseline")]
    failed = [replace(trials(failed=None)[0], error="nan")]
    data = report_data(trials=[*tried, *baseline, *failed], by_seed=seeds("a", -1.0, -1.0 + 0.1 * np.sqrt(2)))
    # 1.96 * 0.1 * sqrt(2) = 0.277
    assert indistinct(data, 0.1) == (["near"], 2)
    assert "spread by 0.1000 nats" in sentence(data)
    assert "1 of the 2 other balances" in sentence(data)
    assert "search.seeds" in study_table(data, "command")


def test_repeated_trials_tell_more_apart(report_data):
    twice = [*trials(best=-1.0, near=-1.27), *trials(best=-1.0, near=-1.27)]
    assert indistinct(report_data(trials=twice), 0.1) == ([], 1)


def test_a_search_without_balances_has_nothing_to_tell_apart(report_data):
    data = report_data(trials=[], by_seed=seeds("a", -1.0, -1.2))
    assert indistinct(data, 0.1) == ([], 0)
    assert "other balances" not in sentence(data)


def test_accuracy_spreads_in_points(report_data):
    rows = [replace(row, accuracy=0.5 + 0.01 * row.seed) for row in seeds("a", -1.0, -1.0, -1.0)]
    assert "spread by 1.0\u00a0points (" in sentence(report_data(by_seed=rows, trials=[], metric="accuracy"))
