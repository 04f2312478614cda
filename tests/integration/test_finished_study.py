"""A study that an earlier version finished: found again whole, and read anew where reading has changed."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.storage import Storage
from taskpgm_ray.workload import fine_tunes
from tests.integration.studies import optimize, units

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def by_kind(folder):
    """Every finished unit of a study, by kind: its path -> when it was finished."""
    found = {}
    for path, when in units(folder).items():
        found.setdefault(path.partition("/")[0], {})[path] = when
    return found


def again_as_it_was(folder):
    """The same command with the bandwidth's rule of then: another gives other mixtures, which would all be trained."""
    return optimize(folder.parents[1] / "study.yaml", "affinity.gamma=median")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """(folder of the study, its units and its mixture before, what the same command printed)."""
    root = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ROOT / "tests" / "data" / "finished-study.tar.gz") as archive:
        archive.extractall(root, filter="data")
    folder = root / "runs" / "small"
    before, mixture = by_kind(folder), json.loads((folder / "mixture.json").read_text())
    return folder, before, mixture, again_as_it_was(folder)


def test_no_fine_tune_score_or_trial_is_repeated(again):
    folder, before, _, printed = again
    counts = {kind: len(found) for kind, found in before.items()}
    assert {kind: counts[kind] for kind in ("adapters", "scores", "trials", "mixtures", "reported")} == {
        "adapters": 4, "scores": 10, "trials": 8, "mixtures": 23, "reported": 21,
    }  # fmt: skip
    after = by_kind(folder)
    # That version knew no separation of the tasks; these do not overlap, so nothing follows from it.
    (separation,) = (folder / "separation").iterdir()
    assert json.loads((separation / "manifest.json").read_text())["withheld"] == 0
    # Its tasks are read by the rules of today, which give the same token ids.
    assert len(after["tasks"]) == 2 * len(before["tasks"]) == 8
    for kind in ("adapters", "scores", "segments"):
        assert after[kind] == before[kind]
    for kind, found in before.items():
        assert found.items() <= after[kind].items(), kind
    for stage in ("finetune", "score"):
        assert re.search(rf"^{stage}: nothing to do", printed, re.M), (stage, printed)


def test_only_what_new_rules_ask_for_is_trained(again):
    """PMI is another affinity now, and the report split is judged by seeds that no trial had."""
    folder, before, _, printed = again
    after = by_kind(folder)
    mixtures = after["mixtures"].keys() - before["mixtures"].keys()
    searched = [name for name in mixtures if "-seed0-" in name]
    # Every trial is scored anew, because BBH is, but only those of PMI are trained.
    assert len(searched) == 4
    assert all(name.startswith("mixtures/pmi-gamma-") for name in searched)
    assert re.search(r"^search: 10 to do", printed, re.M), printed
    assert re.search(r"^finalists: 5 of 22 already there, 17 to do", printed, re.M), printed
    asked = [name for name in after["reported"].keys() - before["reported"].keys() if "base" not in name]
    assert len(asked) == 22
    assert not any("-seed0-" in name for name in asked)


def test_jsd_and_pmi_and_every_bandwidth_are_one_pairwise_job(again):
    """The search covers JSD with two bandwidths, and PMI; earlier each kind was a unit of its own."""
    folder, before, _, _ = again
    assert len(before["affinity"]) == 2
    made = by_kind(folder)["affinity"].keys() - before["affinity"].keys()
    assert len(made) == 1


def test_the_mixture_is_certified_and_what_is_recommended_stands_beside_it(again):
    folder, *_ = again
    now = json.loads((folder / "mixture.json").read_text())
    assert now["gap"] < 1e-9
    assert (now["chosen"], now["recommended"]) == ("taskpgm", "uniform")
    assert [task["recommended_weight"] for task in now["tasks"]] == [0.25] * 4


def test_the_report_shows_the_affinity_that_won(again):
    import pyarrow.parquet as pq

    folder, before, _, _ = again
    now = json.loads((folder / "mixture.json").read_text())
    page = (folder / "report.html").read_text()
    caption = re.search(r'<figcaption id="caption-affinity">(.*?)</figcaption>', page)[1]
    assert f"({now['affinity']}, gamma = " in caption
    packed = re.search(r'<script type="text/plain" id="figures">(.*?)</script>', page, re.S)[1]
    figures = json.loads(gzip.decompress(base64.b64decode(packed)))
    heat = figures["figure-affinity"]["data"][0]
    shown = np.array(heat["z"] if isinstance(heat["z"], list) else decoded(heat["z"]), dtype=float)
    # By hand: the winner's kernel, from what is stored.
    (made,) = by_kind(folder)["affinity"].keys() - before["affinity"].keys()
    table = pq.read_table(folder / made / "matrices.parquet")
    stored = {name: table[name].to_numpy().reshape(4, 4) for name in ("divergence", "gram")}
    norms = np.diag(stored["gram"])
    profiles = norms[:, None] + norms[None] - 2 * stored["gram"]
    distances = profiles if now["affinity"].startswith("pmi") else stored["divergence"]
    order = [[task["name"] for task in now["tasks"]].index(name) for name in heat["x"]]
    np.testing.assert_allclose(shown, np.exp(-now["gamma"] * distances)[np.ix_(order, order)], atol=1e-6)


def decoded(packed):
    """An array as plotly packs it."""
    import base64

    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=np.dtype(packed["dtype"]))
    return flat.reshape([int(n) for n in packed["shape"].split(",")])


def test_the_plan_counts_as_many_fine_tunes_as_the_study_needs(again):
    """With families, seeds, finalists and budgets."""
    folder, before, _, printed = again
    config = load_config(folder / "config.yaml")
    (trials,) = re.findall(r"^search: (\d+) to do", printed, re.M)
    (finalists,) = re.findall(r"^finalists: \d+ of (\d+) already", printed, re.M)
    # The plan counts the handed-over adapter apart: the chosen balance may be one that no trial had.
    needed = len(before["adapters"]) + int(trials) + int(finalists) + 1
    assert sum(row.jobs for row in fine_tunes(config, len(before["adapters"]))) == needed == 37


def test_afterwards_the_study_is_finished_for_this_version_too(again):
    folder, *_ = again
    now = by_kind(folder)
    page = (folder / "report.html").stat().st_mtime_ns
    printed = again_as_it_was(folder)
    assert by_kind(folder) == now
    assert (folder / "report.html").stat().st_mtime_ns == page
    assert not re.search(r"\d to do$", printed, re.M)
    assert Storage(str(folder)).read_json("mixture.json")["study"] == "small"


def test_its_report_is_written_once_more_without_ray_wherever_it_lies(again, tmp_path):
    folder = tmp_path / "moved" / "here"
    shutil.copytree(folder_of(again), folder)
    before, mixture = by_kind(folder), (folder / "mixture.json").read_text()
    (folder / "report.html").unlink()
    line = [sys.executable, "-m", "taskpgm_ray.cli", "report", str(folder)]
    # A Ray that is started would be named in the log, and a stage that computes prints how much there is to do.
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=folder_of(again).parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "report.html").exists()
    assert by_kind(folder) == before
    assert json.loads((folder / "mixture.json").read_text())["tasks"] == json.loads(mixture)["tasks"]
    assert not re.search(r"\d to do$", done.stdout, re.M)
    shutil.rmtree(folder / "noise", ignore_errors=True)
    shutil.rmtree(next((folder / "affinity").iterdir()))
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=folder_of(again).parents[1])
    assert done.returncode == 4
    assert "is not finished, or was made by another version" in done.stderr


def folder_of(again):
    return again[0]


def test_a_finished_study_in_python(again, monkeypatch):
    import pandas as pd

    from taskpgm_ray import Study

    folder, *_ = again
    # Its config names model and data by relative paths.
    with pytest.raises(EvaluationError, match="'evaluation' is no folder"):
        Study.finished(str(folder))
    monkeypatch.chdir(folder.parents[1])
    result = Study.finished(str(folder))
    tasks = result.tasks()
    mixture = json.loads((folder / "mixture.json").read_text())
    assert tasks["weight"].to_dict() == {task["name"]: task["weight"] for task in mixture["tasks"]}
    assert (tasks["loss_before"] > 0).all()
    S = result.matrix()
    assert list(S.index) == list(S.columns) == list(tasks.index)
    pd.testing.assert_frame_equal(S, pd.DataFrame(result.affinity.S, S.index, S.columns))
    divergence = result.affinities.to_pandas()
    assert np.diag(divergence).max() < 1e-9 < divergence.to_numpy().max()
    np.testing.assert_array_equal(result.affinities.to_pandas("jsd"), result.affinities.view("jsd"))
    assert set(result.comparisons()["baseline"]) >= {"uniform", "base model"}
    assert len(result.trials()) >= 10
    for name in ("mixture", "path", "scores", "comparison", "affinity", "divergence", "pmi", "lift", "coverage"):
        assert result.figure(name).data, name
    with pytest.raises(ValueError, match="no figure 'x'; it has mixture, path"):
        result.figure("x")
    assert result.report.verdict[:40] in result._repr_html_()


def test_the_example_runs_cell_by_cell(again):
    folder, *_ = again
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "explore.py")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder.parents[1],
        env={**os.environ, "TASKPGM_STUDY": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    assert "most alike: (" in done.stdout
    assert "figure of 4 tasks" in done.stdout
    assert (ROOT / "jobs" / "explore.py").read_text().count("# %% ") == 6


def test_what_the_models_write_is_kept(again):
    folder, *_ = again
    units = list((folder / "samples").iterdir())
    assert len(units) == 3
    page = (folder / "report.html").read_text()
    section = page[page.index('<section id="answers">') :]
    rows = section[: section.index("</table>")].count("<tr>") - 1
    assert rows == len(json.loads((units[0] / "answers.json").read_text())) > 0
