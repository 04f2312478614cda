from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from taskpgm_ray.report import figures, matrices, score_figures
from taskpgm_ray.report.clustering import blocks, cluster, labels


def test_clustering_puts_families_side_by_side():
    family = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    divergence = np.where(family[:, None] == family[None], 0.02, 0.5) + np.diag(np.full(9, -0.02))
    drawn = family[cluster(divergence).order]
    assert sum(a != b for a, b in pairwise(drawn)) == 2


def test_the_tree_joins_every_leaf_and_ends_at_the_root(report_data):
    tree = cluster(report_data(8).divergence)
    assert sorted(tree.order) == list(range(8))
    assert len(tree.branches) == 7
    feet = {x for xs, hs in tree.branches for x, h in zip(xs, hs, strict=True) if h == 0}
    assert feet == set(range(8))
    assert max(h for _, hs in tree.branches for h in hs) == 1


def test_labels_stay_distinct_and_harmless():
    names = ["x" * 60 + "a" + "y" * 60, "x" * 60 + "b" + "y" * 60, "<b>&", "short"]
    made = labels(names)
    assert len(set(made)) == 4
    assert made[2:] == ["&lt;b&gt;&amp;", "short"]
    assert all(len(label) < 40 for label in made)


def test_blocks_cover_every_task_once():
    runs = blocks(1001, most=400)
    assert len(runs) <= 400
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(1001))
    assert blocks(7, most=400) == [slice(i, i + 1) for i in range(7)]


def test_affinity_heat_map_holds_s_in_clustered_order(report_data):
    data = report_data(7)
    tree = cluster(data.divergence)
    heat_map = matrices.affinity(data, tree).data[0]
    np.testing.assert_allclose(heat_map.z, data.affinity[np.ix_(tree.order, tree.order)], atol=1e-6)
    assert list(heat_map.x) == list(heat_map.y) == [data.names[i] for i in tree.order]
    assert heat_map.texttemplate is not None  # few tasks: numbers in the cells


def test_pmi_keeps_its_direction_and_a_scale_around_zero(report_data):
    data = report_data(7)
    tree = cluster(data.divergence)
    heat_map = matrices.gains(data.pmi, "PMI", data, tree).data[0]
    i, j = 2, 5
    assert heat_map.z[i][j] == pytest.approx(data.pmi[tree.order[i], tree.order[j]], abs=1e-6)
    assert heat_map.zmin == -heat_map.zmax == -np.abs(data.pmi).max()


def test_coverage_rows_are_the_base_model_and_then_the_adapters(report_data):
    data = report_data(7)
    tree = cluster(data.divergence)
    heat_map = matrices.coverage(data, tree).data[0]
    assert list(heat_map.y) == ["base", *(data.names[i] for i in tree.order)]
    np.testing.assert_allclose(heat_map.z[0], data.coverage[0, tree.order], atol=1e-6)
    np.testing.assert_allclose(heat_map.z[3], data.coverage[1 + tree.order[2], tree.order], atol=1e-6)


def test_very_large_pools_are_joined_to_blocks(report_data, monkeypatch):
    monkeypatch.setattr(matrices, "blocks", lambda n: blocks(n, most=4))
    data = report_data(9)
    tree = cluster(data.divergence)
    heat_map = matrices.divergence(data, tree).data[0]
    assert np.shape(heat_map.z) == (3, 3)
    first = tree.order[:3]
    assert heat_map.z[0][0] == pytest.approx(data.divergence[np.ix_(first, first)].mean(), abs=1e-6)
    assert heat_map.x[0] == f"{data.names[first[0]]} and 2 more"
    lowest = matrices.coverage(data, tree).data[0].z
    assert np.min(lowest) == pytest.approx(data.coverage.min(), abs=1e-6)  # the worst is not averaged away


def test_mixture_bars_are_sorted_with_the_baselines_on_the_same_tasks(report_data):
    data = report_data(6)
    bars, uniform, proportional = figures.mixture_bars(data).data
    order = np.argsort(-data.weights)
    assert list(bars.y) == [data.names[i] for i in order]
    np.testing.assert_allclose(bars.x, 100 * data.weights[order])
    np.testing.assert_allclose(uniform.x, np.full(6, 100 / 6))
    np.testing.assert_allclose(proportional.x, 100 * data.baselines["proportional"][order])


def test_many_tasks_stand_upright_and_beyond_that_only_the_heaviest(report_data):
    data = report_data(230)
    bars = figures.mixture_bars(data).data[0]
    assert bars.orientation == "v"
    assert len(bars.y) == figures.MOST_BARS
    assert bars.y[0] == 100 * data.weights.max()


def test_path_bands_sum_to_the_whole_and_mark_the_choice(report_data):
    data = report_data(30)
    figure = figures.path_bands(data)
    bands = [trace for trace in figure.data if trace.stackgroup]
    assert len(bands) == figures.MOST_BANDS + 1
    assert bands[-1].name == "19 other tasks"
    np.testing.assert_allclose(np.sum([band.y for band in bands], axis=0), 100, atol=1e-9)
    assert figure.layout.shapes[0].x0 == 0.5
    [marks] = [trace for trace in figure.data if trace.name == "trials"]
    assert list(marks.x) == [0.0, 0.5, 1.0, 2.0, 4.0, 6.0]


def test_path_is_drawn_only_as_far_as_something_happens(report_data):
    data = report_data(6)
    tau = figures.path_bands(data).data[0].x
    assert data.path_tau[-1] == 30
    assert tau[-1] == pytest.approx(1.15 * 6)
    # The last point is on the path, between its corners at 4 and 8.
    last = figures.path_bands(data).data[0].y[-1]
    order = np.argsort(-np.array([np.interp(tau, data.path_tau, w) for w in data.path_weights.T]).mean(axis=1))
    assert last == pytest.approx(100 * np.interp(6.9, data.path_tau, data.path_weights[:, order[0]]))


def test_scores_average_the_seeds_and_leave_out_failed_trials(report_data):
    data = report_data(6)
    figure = score_figures.scores(data)
    means = figure.data[0]
    assert list(means.x) == [0.0, 0.5, 1.0, 2.0, 4.0]  # not 6, which failed
    expected = np.mean([t.gold_logprob for t in data.trials if t.tau == 0.5])
    assert means.y[1] == pytest.approx(expected)
    [uniform] = [t for t in figure.data if t.name == "uniform" and t.xaxis == "x"]
    level = np.mean([t.gold_logprob for t in data.trials if t.name == "uniform"])
    assert list(uniform.y) == [level, level]
    [chosen] = [t for t in figure.data if t.name == "chosen" and t.xaxis == "x"]
    assert (list(chosen.x), list(chosen.y)) == ([0.5], [pytest.approx(expected)])


def test_families_at_the_same_balance_are_not_averaged(report_data, trial_row):
    """The line said -1.5 at tau = 6, a mean of two mixtures, and the star stood there."""
    data = report_data(6)
    weights = list(data.weights)
    trials = [
        trial_row(f"{family}-tau-{tau:g}", value, kind="balance", tau=tau, seed=0, weights=weights, winner=winner)
        for family, tau, value, winner in [
            ("jsd", 6.0, -1.0, True),
            ("pmi", 6.0, -2.0, False),
            ("jsd", 0.0, -1.1, False),
            ("pmi", 0.0, -1.3, False),
            ("pmi", 9.0, -1.7, False),
        ]
    ]
    text = trial_row("text-tau-7", -1.5, kind="baseline", tau=7.0, seed=0, weights=weights)
    data = replace(data, trials=[*trials, text], mixture=data.mixture | {"tau": 6.0, "affinity": "jsd"})
    panel = [trace for trace in score_figures.scores(data).data if trace.xaxis == "x"]
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in panel}
    assert drawn["jsd, mean over seeds"] == ([0, 6], [-1.1, -1.0])
    assert drawn["pmi, mean over seeds"] == ([0, 6, 9], [-1.3, -2.0, -1.7])
    assert drawn["chosen"] == ([6], [-1.0])
    assert len({trace.line.color for trace in panel if trace.mode == "lines+markers"}) == 2
    # The path is that of jsd.
    path = figures.path_bands(data)
    [marks] = [trace for trace in path.data if trace.name == "trials"]
    assert list(marks.x) == [0, 6]
    assert path.data[0].x[-1] == pytest.approx(1.15 * 6)


def test_a_baseline_that_won_is_marked_as_chosen(report_data):
    trials = [replace(t, winner=t.name == "uniform") for t in report_data(6).trials]
    names = {trace.name for trace in score_figures.scores(report_data(6, trials=trials)).data}
    assert "uniform (chosen)" in names
    assert "chosen" not in names  # no balance wears the star


def test_comparisons_show_differences_with_their_intervals(report_data):
    data = report_data(6)
    gold, accuracy = [trace for trace in score_figures.comparisons(data).data if trace.customdata is not None]
    assert list(gold.x) == [0.061, 0.09]
    np.testing.assert_allclose(accuracy.x, [1.2, -3.1])  # points
    np.testing.assert_allclose(accuracy.error_x.arrayminus, [2, 2])
    undecided, worse = accuracy.marker.color
    better = gold.marker.color[0]
    assert len({undecided, worse, better}) == 3
