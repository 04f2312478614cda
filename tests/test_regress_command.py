"""`taskpgm regress`: anybody's runs in a table, and what a regression makes of them."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from taskpgm_ray.cli import main
from taskpgm_ray.mixture import read_given

NAMES = ["gsm8k", "sst2", "boolq, easy"]
SLOPE = np.array([1.0, 0.0, -1.0])


def table(tmp_path, rows, header=(*NAMES, "score")):
    file = tmp_path / "runs.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(file)


@pytest.fixture
def runs(tmp_path):
    """Twelve mixtures, each twice, whose losses follow a mixing law."""
    mixtures = np.random.default_rng(0).dirichlet(np.ones(3), 12).repeat(2, axis=0)
    losses = 2 * np.exp(-0.3 * mixtures @ SLOPE) + 0.001 * np.tile([0, 1], 12)
    return table(tmp_path, np.column_stack([mixtures, -losses]).tolist())


@pytest.fixture
def called(capsys):
    def call(*arguments):
        code = main(["regress", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_both_models_and_the_proposal_beside_uniform_and_the_best_run(runs, called):
    code, out, err = called(runs)
    assert code == 0
    head, *rows = (line.split("\t") for line in out.splitlines())
    assert head == ["task", "proposed", "uniform", "best"]
    assert [row[0] for row in rows] == NAMES
    shares = np.array([[float(cell) for cell in row[1:]] for row in rows])
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=2e-4)
    assert shares[0, 0] > 0.9
    np.testing.assert_allclose(shares[:, 1], 1 / 3, atol=1e-4)
    assert "# 24 runs of 12 mixtures" in err
    assert "# log-linear, used: ranks mixtures that were left out with a correlation of 1.00 (Spearman; at least" in err
    assert "# boosted: ranks mixtures" in err
    assert "mean of 2 runs" in err
    assert "WARNING" not in err


def test_json_and_the_file_of_a_mixture(runs, called, tmp_path):
    out_file = tmp_path / "mine.csv"
    code, out, err = called(runs, "--json", "--out", out_file, "--seed", 3)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["runs"], found["mixtures"], found["model"], found["tells_apart"]) == (24, 12, "log-linear", True)
    assert set(found["models"]) == {"log-linear", "boosted"}
    proposed = [row["proposed"] for row in found["rows"]]
    np.testing.assert_allclose(read_given(str(out_file), NAMES), proposed, atol=1e-15)
    assert found["expected"]["proposed"] > found["expected"]["best"] > found["expected"]["uniform"]
    with open(runs) as stream:
        line = stream.read().splitlines()[found["best"]["line"] - 1]
    best = [row["best"] for row in found["rows"]]
    np.testing.assert_allclose([float(cell) for cell in line.split(",")[:3]], best)
    assert called(runs, "--json", "--seed", 3)[1] == out


def test_losses_are_turned_around(runs, called, tmp_path):
    with open(runs) as stream:
        rows = [[*row[:3], -float(row[3])] for row in list(csv.reader(stream))[1:]]
    losses = table(tmp_path, rows, (*NAMES, "eval loss"))
    code, out, _ = called(losses, "--score", "eval loss", "--lower-is-better", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["rows"][0]["proposed"] > 0.9
    assert 0 < found["expected"]["proposed"] < found["expected"]["uniform"]
    assert found["best"]["score"] == pytest.approx(min(np.array(rows)[:, 3].astype(float)), abs=0.001)


def test_the_proposal_keeps_what_it_has_to(runs, called):
    limits = ("--max", "gsm8k=0.5", "--fix", "sst2=0.2", "--floor", "0.3")
    code, out, _ = called(runs, "--json", *limits)
    proposed = [row["proposed"] for row in json.loads(out)["rows"]]
    assert code == 0
    assert 0.45 < proposed[0] <= 0.5 + 1e-9
    assert proposed[1] == pytest.approx(0.2)
    assert proposed[2] >= 0.1 - 1e-9


def test_runs_that_say_nothing_are_called_so(called, tmp_path):
    rng = np.random.default_rng(1)
    rows = np.column_stack([rng.dirichlet(np.ones(3), 10), -2 + 0.05 * rng.normal(size=10)])
    code, out, err = called(table(tmp_path, rows.tolist()))
    assert code == 0
    assert out.startswith("task\t")
    assert "# WARNING: these runs do not tell mixtures apart; take uniform" in err


GOOD = [[0.5, 0.3, 0.2, k] for k in range(3)]


@pytest.mark.parametrize(
    ("rows", "header", "code", "said"),
    [
        (GOOD, (*NAMES, "loss"), 4, "has no column 'score' (--score names another)"),
        ([], (), 4, "has no column 'score'"),
        ([*GOOD, [50, 30, 20, 1]], (*NAMES, "score"), 4, "line 5: the weights sum to 100, not to 1; divide them by"),
        ([*GOOD, [0.5, 0.3, 0.21, 1]], (*NAMES, "score"), 4, "line 5: the weights sum to 1.01"),
        ([*GOOD, [0.9, 0.3, -0.2, 1]], (*NAMES, "score"), 4, "line 5: the weight of 'boolq, easy' is -0.2"),
        ([[0.5, 0.3, 0.2, "good"]], (*NAMES, "score"), 4, "line 2: 'good' under 'score' is no number"),
        ([[0.5, 0.3, "nan", 1]], (*NAMES, "score"), 4, "'nan' under 'boolq, easy' is no finite number"),
        ([[0.5, 0.5, 1]], (*NAMES, "score"), 4, "line 2: 3 cells under 4 names"),
        ([[1, 1]], ("a", "score"), 4, "needs two tasks or more"),
        ([[0.5, 0.5, 1]], ("a", "a", "score"), 4, "each a column with a name of its own"),
        (GOOD, (*NAMES, "score"), 4, "at least 5 different mixtures with scores, and there are 1"),
    ],
)
def test_a_wrong_table_is_one_clear_line(tmp_path, called, rows, header, code, said):
    got, out, err = called(table(tmp_path, rows, header))
    assert (got, out) == (code, "")
    assert said in err
    assert err.startswith("taskpgm: InputError: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--max", "gsm9k=0.5"), 4, "is not TASK=SHARE"),
        (("--max", "*=0.2"), 3, "no mixture keeps all of these"),
        (("--out", "/nowhere/mine.csv"), 4, "/nowhere/mine.csv cannot be written"),
    ],
)
def test_wrong_options(runs, called, arguments, code, said):
    got, out, err = called(runs, *arguments)
    assert (got, out) == (code, "")
    assert said in err


def test_no_file(called):
    assert called("/nowhere/runs.csv")[0] == 4
    with pytest.raises(SystemExit) as end:
        main(["regress"])
    assert end.value.code == 2


WITHOUT = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)


sys.meta_path.insert(0, Blocker())
from taskpgm_ray.cli import main
sys.exit(main(sys.argv[2:]))
"""
STUDIES = "ray,torch,transformers,peft,plotly,lm_eval,optuna,datasets,pydantic,yaml,rich,pyarrow,pandas"


def test_it_needs_scikit_learn_and_nothing_else_of_a_study(runs):
    def call(without):
        command = [sys.executable, "-c", WITHOUT, without, "regress", runs]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = call(STUDIES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("task\tproposed")
    done = call(f"{STUDIES},sklearn")
    assert done.returncode == 5
    assert done.stderr.startswith("taskpgm: sklearn is not installed")
    assert done.stderr.count("\n") == 1
