import base64
import gzip
import io
import json
import re
import time
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from taskpgm_ray.evaluation.statistics import ONE_SEED
from taskpgm_ray.finetune.usable import Usable
from taskpgm_ray.report import ReportData, regression, render, summary
from taskpgm_ray.report.data import TaskRow, TrialRow
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.runtime.progress import StageCost
from taskpgm_ray.search.comparator import RegressionFinding
from taskpgm_ray.search.merge_search import MergeFinding
from taskpgm_ray.search.merges import Agreement
from taskpgm_ray.search.screen import ScreenFinding

HOSTILE = "<script>alert('x')</script>"


class Outline(HTMLParser):
    """Collects element ids, what is loaded from outside, figures, table rows and the text outside of scripts."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, page):
        super().__init__()
        self.ids, self.loaded, self.open, self.text, self.rows = [], [], [], [], 0
        self.scripts = 0
        self.feed(page)
        assert not self.open, f"unclosed elements: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.scripts += tag == "script"
        self.rows += tag == "tr"
        for name in ("src", "href", "data", "srcset", "action"):
            if name in attributes and not attributes[name].startswith("#"):
                self.loaded.append((tag, attributes[name]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if not {"script", "style"} & set(self.open):
            self.text.append(text)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def figures_of(page):
    return json.loads(unpacked(page, "figures"))


def unpacked(page, name):
    """What the page's own script unpacks."""
    packed = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page, re.DOTALL).group(1)
    return gzip.decompress(base64.b64decode(packed)).decode()


def test_page_is_well_formed_self_contained_and_complete(report_data):
    data = report_data(6)
    page = render(data)
    outline = Outline(page)
    assert outline.loaded == []
    assert "@import" not in page.split("</style>")[0]
    assert "url(" not in page.split("</style>")[0]
    assert "showSendToCloud: false" in page  # plotly's upload button is off
    assert len(set(outline.ids)) == len(outline.ids)
    assert unpacked(page, "plotly").count("plotly.js v") == 1
    assert outline.scripts == 3
    assert data.verdict in outline.words
    for name in data.names:
        assert name in outline.words
    figures = figures_of(page)
    assert set(figures) == {
        "figure-mixture", "figure-path", "figure-scores", "figure-comparison", "figure-affinity",
        "figure-divergence", "figure-pmi", "figure-coverage",
    }  # fmt: skip
    assert set(figures) <= set(outline.ids)
    for name in figures:
        assert name.replace("figure-", "caption-") in outline.ids


def test_every_string_of_the_user_is_escaped(report_data):
    names = [f"{HOSTILE}{i}" for i in range(5)]
    base = report_data(5, names=names)
    trials = [replace(t, name=t.name + HOSTILE) for t in base.trials]
    trials[-1] = replace(trials[-1], error=HOSTILE)
    page = render(
        report_data(
            5, names=names, study=HOSTILE, verdict=HOSTILE, config_yaml=HOSTILE, versions={HOSTILE: HOSTILE},
            tasks=[replace(t, source=HOSTILE) for t in base.tasks], trials=trials,
            baselines={HOSTILE: base.baselines["uniform"]}, coverage=np.full((6, 5), 0.5),
            coverage_names=[HOSTILE] * 6, stages=[StageCost(HOSTILE, seconds=1.0)],
            comparisons=[replace(c, baseline=HOSTILE, verdict=HOSTILE) for c in base.comparisons],
        )
    )  # fmt: skip
    assert "<script>alert" not in page
    outline = Outline(page)
    assert outline.scripts == 3
    for name in names:
        assert escape(name) in page
        assert name in outline.words
    # Plotly reads markup in its texts, so there the names are escaped once more.
    labels = figures_of(page)["figure-affinity"]["data"][0]["x"]
    assert sorted(labels) == sorted(escape(name, quote=False) for name in names)


def test_missing_pieces_become_sentences_without_figures(report_data):
    page = render(
        report_data(
            6, trials=[], comparisons=[], pmi=None, coverage=None, path_tau=None, path_weights=None, stages=[],
            versions={}, config_yaml="", divergence_se=None, gamma=None, effective_tasks=None, baselines={}, verdict="",
        )
    )  # fmt: skip
    words = Outline(page).words
    for sentence in (
        "No search was run", "No comparison on the report split was made", "mutual information was not computed",
        "Coverage was not recorded", "The path of mixtures was not computed", "The cost of the stages was not recorded",
        "Versions and config were not recorded", "nothing judged it",
    ):  # fmt: skip
        assert sentence in words
    assert set(figures_of(page)) == {"figure-mixture", "figure-affinity", "figure-divergence"}
    assert "None" not in words
    assert "nan" not in words


def test_only_what_is_required_is_enough(report_data):
    full = report_data(4)
    data = ReportData(
        study="bare", tasks=[TaskRow(name=name) for name in full.names], divergence=full.divergence,
        affinity=full.affinity, mixture=full.mixture,
    )  # fmt: skip
    assert "None" not in Outline(render(data)).words


def test_a_single_task_has_no_affinities(report_data):
    words = Outline(render(report_data(1, trials=[]))).words
    assert "With a single task there is nothing to compare" in words


def test_all_trials_failed(report_data):
    failed = TrialRow(name="tau-1", kind="balance", tau=1.0, seed=0, weights=[1 / 6] * 6, error="out of memory")
    page = render(report_data(6, trials=[failed]))
    assert "1 of 1 trials failed" in Outline(page).words
    assert "failed: out of memory" in Outline(page).words
    assert "figure-scores" not in figures_of(page)


def test_chosen_trials_are_highlighted_and_sort_keys_are_numbers(report_data):
    page = render(report_data(6))
    section = page[page.index('<section id="trials">') : page.index('<section id="comparison">')]
    assert len(re.findall(r'<tr class="chosen"><td>tau-0\.5</td>', section)) == 2
    assert section.count('class="chosen"') == 2
    keys = [float(key) for key in re.findall(r'data-sort="([^"]*)"', section)]
    assert -1.5 < max(k for k in keys if k < 0) < -1


def test_low_coverage_is_warned_about_and_good_coverage_is_not(report_data):
    coverage = np.full((7, 6), 0.99)
    assert "less than 95" not in Outline(render(report_data(6, coverage=coverage))).words
    coverage[3, 4] = 0.91
    page = render(report_data(6, coverage=coverage))
    data = report_data(6)
    words = Outline(page).words
    assert "1 of 42 combinations keep less than 95" in words
    assert f"The least is 91.0 %: adapter {data.names[2]} on the probes of {data.names[4]}" in words


@pytest.mark.parametrize("after", [1.0, 1.5, float("nan"), float("inf")])
def test_adapters_that_learned_nothing_are_named(report_data, after):
    tasks = report_data(6).tasks
    assert "did not lower" not in Outline(render(report_data(6, tasks=tasks))).words
    tasks[2] = replace(tasks[2], heldout_loss_before=1.0, heldout_loss_after=after)
    words = Outline(render(report_data(6, tasks=tasks))).words
    assert f"did not lower the held-out loss of its own task for: {tasks[2].name}." in words


def test_what_questions_settle_is_in_the_table_where_it_was_measured(report_data):
    tasks = report_data(6).tasks
    assert "settled by its question" not in Outline(render(report_data(6, tasks=tasks))).words
    tasks = [replace(task, usable=Usable(0.5, 0.1, 0.8)) for task in tasks]
    tasks[1] = replace(tasks[1], usable=None)
    assert render(report_data(6, tasks=tasks)).count('data-csv="0.625 ± 0.125"') == 5
    words = Outline(render(report_data(6, tasks=tasks))).words
    assert words.count("62 % ± 12 %") == 5
    assert "None is shown for" not in words
    tasks[2] = replace(tasks[2], usable=Usable(0.1, 0.1, 0.8))
    words = Outline(render(report_data(6, tasks=tasks))).words
    assert words.count("12 % ± 12 %") == 1
    assert f"None is shown for {tasks[2].name}: beyond what answers look like" in words


def test_two_hundred_tasks_render_in_seconds(report_data):
    data = report_data(200)
    start = time.perf_counter()
    page = render(data)
    assert time.perf_counter() - start < 8
    assert len(page) < 12e6
    words = Outline(page).words
    assert all(name in words for name in data.names)


@pytest.mark.parametrize("n", [2, 3, 15, 41])
def test_other_sizes(report_data, n):
    assert Outline(render(report_data(n))).rows > 2 * n


def test_the_screen_says_what_merges_are_good_for(report_data):
    found = ScreenFinding(0.81, 0.65, mixtures=9, warranted=True, skipped=("tau-3", "tau-4"))
    words = Outline(render(report_data(6, screen=found))).words
    assert "rank the 9 mixtures with a correlation of 0.810 to training (Spearman; at least 0.650)" in words
    assert "may stand in for training; 2 mixtures that could not have been the best were not trained" in words
    found = ScreenFinding(0.1, -0.4, mixtures=9, warranted=False)
    assert "merging cannot stand in for training here." in Outline(render(report_data(6, screen=found))).words


def test_the_search_by_merges_says_what_it_rested_on(report_data):
    found = MergeFinding(112, Agreement(0.95, 0.72, 8), Agreement(0.88, 0.61, 12), ("tau-1.2", "tau-2"))
    words = Outline(render(report_data(6, merges=found))).words
    assert "ranked the 8 mixtures that are trained in any case with a correlation of 0.950 to training" in words
    assert "of 112 merged mixtures only those were trained that they proposed: tau-1.2, tau-2." in words
    assert "Over all 12 mixtures that were trained it is 0.880 to training (Spearman; at least 0.610)." in words
    refused = MergeFinding(12, Agreement(0.4, -0.3, 8), Agreement(0.5, 0.1, 12))
    words = Outline(render(report_data(6, merges=refused))).words
    assert "which is too little to search by them: the whole grid was trained." in words
    assert "proposed" not in " ".join(line for line in words.splitlines() if "Weighted merges" in line)
    assert json.loads(json.dumps(refused.as_json()))["used"] is False


def test_the_regression_says_what_it_is_worth(report_data):
    found = RegressionFinding("log-linear", 0.71, 0.42, mixtures=9, predicted=-1.1)
    assert "A regression of" not in Outline(render(report_data(6))).words
    words = Outline(render(report_data(6, regression=found))).words
    assert "of 9 mixtures on their weights (log-linear) ranks mixtures that it did not see with a correlation" in words
    assert "of 0.710 (Spearman, each left out in turn; at least 0.420). For the mixture that it proposes" in words
    assert "it predicted -1.1000; no trial of it came to its end." in words
    row = TrialRow(name="regression", kind="baseline", weights=[1 / 6] * 6)
    trials = [replace(row, seed=k, gold_logprob=value) for k, value in enumerate((-1.2, -1.4))]
    data = report_data(6, regression=replace(found, low=-0.2), trials=trials)
    words = Outline(render(data)).words
    assert "at least -0.200): it is not shown to tell mixtures apart. For" in words
    assert "it predicted -1.1000; the trial of it scored -1.3000." in words
    assert regression.sentence(data) in study_table(data, "command")


def test_style_and_script_are_those_of_the_files(report_data):
    page = render(report_data(2))
    folder = files("taskpgm_ray.report")
    assert f"<style>\n{folder.joinpath('page.css').read_text(encoding='utf-8')}</style>" in page
    assert f"<script>\n{folder.joinpath('page.js').read_text(encoding='utf-8')}</script></body>" in page
    # The arrows of sorted columns are CSS escapes.
    assert 'content:" \\2191"' in page


def test_the_bracket_of_the_divergences_is_given(report_data):
    page = render(report_data())
    assert "Over the whole vocabulary" not in page
    data = report_data()
    upper = data.divergence + 0.01 * (1 - np.eye(len(data.tasks)))
    upper[1, 2] = upper[2, 1] = data.divergence[1, 2] + 0.123
    page = render(report_data(divergence_upper=upper))
    lower, high = data.divergence[1, 2], upper[1, 2]
    assert f"is that of {data.names[1]} and {data.names[2]}: {lower:.3f} to {high:.3f}" in page


def one_seed(data):
    """The comparisons as they are with one fine-tune each."""
    return [
        replace(c, p_value=1.0, verdict=ONE_SEED, result=replace(
            c.result, low=-np.inf, high=np.inf, p_value=1.0, seed_error=0.0, minimum_detectable=np.inf, seeds=1
        ))
        for c in data.comparisons
    ]  # fmt: skip


def test_with_one_seed_no_view_shows_an_interval_or_a_colour(report_data):
    from rich.console import Console

    data = report_data(5)
    seen = one_seed(data)
    data = replace(data, comparisons=seen, against_uniform=seen, verdict="With one fine-tune each ...")
    page, text = render(data), study_table(data, "command")
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(summary(data))
    section = page[page.index('id="comparison"') :]
    drawn = unpacked(page, "figures")
    assert not re.search(r"Infinity|NaN", drawn)
    assert "With one fine-tune each" in page
    for shown in (section[: section.index("</section>")] + data.verdict, text, console.export_text()):
        assert not re.search(r"\binf\b|\bnan\b", shown)
        assert "With one fine-tune each" in shown
    assert page.count(ONE_SEED) == text.count(ONE_SEED) / 2 == len(seen)
    figure = figures_of(page)
    points = [trace for trace in figure["figure-comparison"]["data"] if trace.get("mode") == "markers"]
    assert {colour for trace in points for colour in trace["marker"]["color"]} == {"#8b95a5"}


def test_colours_are_the_adjusted_verdicts(report_data):
    """An interval that lies above zero is no verdict when there are many baselines."""
    data = report_data(5)
    adjusted = [replace(c, verdict="no difference shown") for c in data.comparisons]
    page = render(replace(data, comparisons=adjusted))
    figure = figures_of(page)
    points = [trace for trace in figure["figure-comparison"]["data"] if trace.get("mode") == "markers"]
    assert {colour for trace in points for colour in trace["marker"]["color"]} == {"#8b95a5"}
    assert "<th" in page
    section = page[page.index('id="comparison"') :]
    assert 'class="good"' not in section[: section.index("</table>")]
