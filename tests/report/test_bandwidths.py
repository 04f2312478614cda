"""The table of bandwidths: effective tasks, tasks without weight, and what copies get."""

import io

import numpy as np
import pytest
from rich.console import Console

from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.affinity.bandwidth import NoiseFloor
from taskpgm_ray.mrf import solve
from taskpgm_ray.report.bandwidths import TAUS, bandwidth_rows, cells, header, rich_table
from taskpgm_ray.report.html import render
from taskpgm_ray.report.markdown import study_table

GROUPS = ["news", "news", "news", "sums", "verbs", "coins"]


def affinities(noise=None):
    rng = np.random.default_rng(0)
    places = rng.normal(size=(4, 9))[[0, 0, 0, 1, 2, 3]] + 0.05 * rng.normal(size=(6, 9))
    D = ((places[:, None] - places[None]) ** 2).sum(axis=2) / 100
    return Affinities(tuple("abcdef"), D, D, D, D, places @ places.T / 10, D, D, D, "f", noise)


def test_a_row_for_each_rule_and_kind_with_its_own_mixtures():
    found = affinities(NoiseFloor(("a", "b"), (0.0004, 0.0006), (0.004, 0.006), np.zeros((2, 6))))
    rows = bandwidth_rows(found, GROUPS)
    assert [(row.kind, row.rule) for row in rows] == [
        (kind, rule)
        for kind in ("jsd", "pmi")
        for rule in ("noise", "median", "2 x median", "4 x median", "8 x median")
    ]
    for row in rows:
        S = found.above_noise(row.kind).S if row.rule == "noise" else found.view(row.kind, row.gamma)
        mixtures = [solve(S, tau).weights for tau in TAUS]
        assert row.effective == pytest.approx(np.linalg.solve(S, np.ones(6)).sum())
        assert row.empty == tuple((p < 1e-9).sum() for p in mixtures)
        np.testing.assert_allclose(row.parts["news"], [p[:3].sum() for p in mixtures])
        assert list(row.parts) == ["news"]
    # The distances of the profiles are the divergences in another unit here.
    assert rows[5].gamma == pytest.approx(rows[0].gamma / 10, rel=1e-6)
    assert rows[6].gamma == pytest.approx(found.median_gamma("pmi"))


def test_the_table_is_in_terminal_report_and_markdown(report_data):
    rows = bandwidth_rows(affinities(), GROUPS)
    data = report_data(6, bandwidths=rows)
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(rich_table(rows))
    for text in (console.export_text(), render(data), study_table(data, "command")):
        for word in (*header(rows), *cells(rows)[0]):
            assert word in text


def test_where_most_tasks_are_one_the_median_rule_has_no_row():
    D = np.zeros((5, 5))
    D[4, :4] = D[:4, 4] = 0.2
    gram = np.diag([0.0, 0.0, 0.0, 0.0, 0.2])
    noise = NoiseFloor(("a", "b"), (1e-6, 1.1e-6), (1e-6, 1.1e-6), np.zeros((2, 5)))
    rows = bandwidth_rows(Affinities(tuple("abcde"), D, D, D, D, gram, D, D, D, "f", noise), list("abcde"))
    assert [row.rule for row in rows] == ["noise", "noise"]


@pytest.mark.parametrize("n", [2, 301])
def test_small_and_large_pools_have_none(n):
    assert bandwidth_rows(affinities(), ["one"] * n) == []
