"""What seeds are worth beside the differences between trials."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray.judge.rows import SeedScores
from taskpgm_ray.report.data import TrialRow
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.noise import REPORT, SEARCH, SeedSpread, indistinct, seed_spread, sentence

SIX = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]) / np.sqrt(3.5)
"""Six numbers of standard deviation 1."""


def seeds(system, *scores):
    return [SeedScores(system, seed, gold_logprob=value, accuracy=0.5) for seed, value in enumerate(scores)]


def trials(**scores):
    return [
        TrialRow(name=name, kind="balance", tau=1.0, seed=0, weights=[1 / 6] * 6, gold_logprob=value)
        for name, value in scores.items()
    ]


def test_the_spread_is_pooled_within_systems(report_data):
    a, b = [-1.0, -1.2, -1.4], [-3.0, -3.1]
    data = report_data(trials=[], by_seed=[*seeds("a", *a), *seeds("b", *b), *seeds("base model", -9.0)])
    pooled = np.sqrt((2 * np.var(a, ddof=1) + np.var(b, ddof=1)) / 3)
    spread = seed_spread(data)
    assert (spread.sd, spread.freedom, spread.split) == (pytest.approx(pooled), 3, REPORT)
    # Trials with several seeds say it of the very scores that are compared.
    twice = [*trials(x=-1.0, y=-2.0), *trials(x=-1.2, y=-2.0)]
    assert seed_spread(replace(data, trials=twice)) == SeedSpread(pytest.approx(0.1), 2, SEARCH)


def test_without_repeated_fine_tunes_nothing_is_said(report_data):
    data = report_data(trials=trials(once=-1.0), by_seed=seeds("a", -1.0))
    assert seed_spread(data) is None
    assert sentence(data) is None
    assert "seed alone" not in study_table(data, "command")


def test_balances_within_the_luck_of_two_seeds_are_counted(report_data):
    tried = trials(best=-1.0, near=-1.46, far=-1.48)
    baseline = [replace(trials(uniform=-1.0)[0], kind="baseline")]
    failed = [replace(trials(failed=None)[0], error="nan")]
    data = report_data(trials=[*tried, *baseline, *failed], by_seed=seeds("a", *(-1.0 + 0.1 * np.array(SIX))))
    assert seed_spread(data).sd == pytest.approx(0.1)
    # The table of the studentised range at 0.95: 4.60 of three means with five degrees of freedom.
    assert indistinct(data, seed_spread(data)) == (["near"], 2)
    assert "spread by 0.1000 nats (standard deviation, report split)." in sentence(data)
    assert "At least 1 of the 2 other balances" in sentence(data)
    assert "than that can tell apart (with one seed a trial," in sentence(data)
    assert "search.seeds" in study_table(data, "command")


def test_repeated_trials_tell_more_apart(report_data):
    # 2.83 of two means with many degrees of freedom is 0.277 for single fine-tunes, and 0.196 for pairs of them.
    known = SeedSpread(0.1, 1000, SEARCH)
    assert indistinct(report_data(trials=trials(best=-1.0, near=-1.27)), known) == (["near"], 1)
    twice = [*trials(best=-1.0, near=-1.27), *trials(best=-1.0, near=-1.27)]
    assert indistinct(report_data(trials=twice), known) == ([], 1)


def test_equal_balances_are_seldom_called_distinct():
    """By the distance of two fine-tunes one of six equal balances was, in two of five searches."""
    rng, distinct = np.random.default_rng(0), 0
    for _ in range(1000):
        scores = {f"tau-{k}": value for k, value in enumerate(0.03 * rng.normal(size=6))}
        systems = [row for name in "abcdefgh" for row in seeds(name, *(0.03 * rng.normal(size=3)))]
        data = SimpleNamespace(trials=trials(**scores), by_seed=systems, metric="gold_logprob")
        near, others = indistinct(data, seed_spread(data))
        distinct += len(near) < others
    assert 0.03 < distinct / 1000 < 0.07


def test_a_search_without_balances_has_nothing_to_tell_apart(report_data):
    data = report_data(trials=[], by_seed=seeds("a", -1.0, -1.2))
    assert indistinct(data, seed_spread(data)) == ([], 0)
    assert "other balances" not in sentence(data)


def test_accuracy_spreads_in_points(report_data):
    rows = [replace(row, accuracy=0.5 + 0.01 * row.seed) for row in seeds("a", -1.0, -1.0, -1.0)]
    assert "spread by 1.0\u00a0points (" in sentence(report_data(by_seed=rows, trials=[], metric="accuracy"))
