"""A study that an earlier version finished: found again whole, and read anew where reading has changed."""

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.storage import Storage
from taskpgm_ray.workload import fine_tunes

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def optimize(root):
    """Run the main job in the study's folder; what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "optimize.py"), "--config", "study.yaml"],
        capture_output=True,
        text=True,
        timeout=540,
        cwd=root,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def units(folder):
    """Every finished unit of a study, by kind: its path -> when it was finished."""
    found = {}
    for manifest in folder.rglob("manifest.json"):
        path = manifest.parent.relative_to(folder)
        found.setdefault(path.parts[0], {})[str(path)] = manifest.stat().st_mtime_ns
    return found


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """(folder of the study, its units and its mixture before, what the same command printed)."""
    root = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ROOT / "tests" / "data" / "finished-study.tar.gz") as archive:
        archive.extractall(root, filter="data")
    folder = root / "runs" / "small"
    before, mixture = units(folder), json.loads((folder / "mixture.json").read_text())
    return folder, before, mixture, optimize(root)


def test_no_fine_tune_score_or_trial_is_repeated(again):
    folder, before, _, printed = again
    counts = {kind: len(found) for kind, found in before.items()}
    assert {kind: counts[kind] for kind in ("adapters", "scores", "trials", "mixtures", "reported")} == {
        "adapters": 4, "scores": 10, "trials": 8, "mixtures": 23, "reported": 21,
    }  # fmt: skip
    after = units(folder)
    # That version knew no separation of the tasks; these do not overlap, so nothing follows from it.
    (separation,) = (folder / "separation").iterdir()
    assert json.loads((separation / "manifest.json").read_text())["withheld"] == 0
    # Its tasks are read by the rules of today, which give the same token ids.
    assert len(after["tasks"]) == 2 * len(before["tasks"]) == 8
    assert before["tasks"].items() <= after["tasks"].items()
    assert {kind: found for kind, found in after.items() if kind not in ("affinity", "separation", "tasks")} == {
        kind: found for kind, found in before.items() if kind not in ("affinity", "tasks")
    }
    for stage in ("finetune", "score", "search", "report split"):
        assert re.search(rf"^{stage}: .*nothing to do|^{stage}: nothing to do", printed, re.M), (stage, printed)


def test_jsd_and_pmi_and_every_bandwidth_are_one_pairwise_job(again):
    """The search covers JSD with two bandwidths, and PMI; earlier each kind was a unit of its own."""
    folder, before, _, _ = again
    assert len(before["affinity"]) == 2
    made = units(folder)["affinity"].keys() - before["affinity"].keys()
    assert len(made) == 1


def test_the_same_mixture_comes_out(again):
    folder, _, mixture, _ = again
    now = json.loads((folder / "mixture.json").read_text())
    assert (now["affinity"], now["gamma"], now["tau"]) == (mixture["affinity"], mixture["gamma"], mixture["tau"])
    for task, earlier in zip(now["tasks"], mixture["tasks"], strict=True):
        assert task["name"] == earlier["name"]
        assert task["weight"] == pytest.approx(earlier["weight"], abs=1e-12)
        assert task["count"] == earlier["count"]
    assert now["gap"] < 1e-9


def test_the_report_shows_the_affinity_that_won(again):
    """PMI won, in a study whose own kind of affinity is JSD."""
    import pyarrow.parquet as pq

    folder, before, mixture, _ = again
    assert mixture["affinity"] == "pmi"
    page = (folder / "report.html").read_text()
    caption = re.search(r'<figcaption id="caption-affinity">(.*?)</figcaption>', page)[1]
    assert "(pmi)" in caption
    assert "gamma" not in caption
    figures = json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)[1])
    heat = figures["figure-affinity"]["data"][0]
    shown = np.array(heat["z"] if isinstance(heat["z"], list) else decoded(heat["z"]), dtype=float)
    # By hand: correlations of the centred PMI profiles, from the stored inner products.
    (made,) = units(folder)["affinity"].keys() - before["affinity"].keys()
    table = pq.read_table(folder / made / "matrices.parquet")
    gram = table["gram"].to_numpy().reshape(4, 4)
    order = [[task["name"] for task in mixture["tasks"]].index(name) for name in heat["x"]]
    expected = (gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram))))[np.ix_(order, order)]
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def decoded(packed):
    """An array as plotly packs it."""
    import base64

    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=np.dtype(packed["dtype"]))
    return flat.reshape([int(n) for n in packed["shape"].split(",")])


def test_the_plan_counts_as_many_fine_tunes_as_the_study_has_made(again):
    """With families, seeds, finalists and budgets."""
    folder, before, _, _ = again
    config = load_config(folder / "config.yaml")
    made = len(before["adapters"]) + len(before["mixtures"])
    assert sum(row.jobs for row in fine_tunes(config, len(before["adapters"]))) == made == 27


def test_afterwards_the_study_is_finished_for_this_version_too(again):
    folder, *_ = again
    now = units(folder)
    page = (folder / "report.html").stat().st_mtime_ns
    printed = optimize(folder.parents[1])
    assert units(folder) == now
    assert (folder / "report.html").stat().st_mtime_ns == page
    assert not re.search(r"\d to do$", printed, re.M)
    assert Storage(str(folder)).read_json("mixture.json")["study"] == "small"
