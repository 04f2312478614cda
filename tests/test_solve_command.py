"""`taskpgm solve`: a matrix in whatever form, a balance, limits, and the mixture in whatever form."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskpgm_ray.cli import main
from taskpgm_ray.matrix_file import affinity_table, read_matrix
from taskpgm_ray.mrf import Group, beside_exact, influence, laplacian, path, repaired, select, solve, solve_grouped

NAMES = ["boolq", "mawps", "sst2", "copa", "rte"]


@pytest.fixture
def S():
    X = np.random.default_rng(0).normal(size=(5, 8))
    D = ((X[:, None] - X[None]) ** 2).sum(-1)
    return np.exp(-D / D.max() * 2)


@pytest.fixture
def file(S, tmp_path):
    (tmp_path / "S.csv").write_text(affinity_table(NAMES, S))
    return str(tmp_path / "S.csv")


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main(["solve", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, err

    return call


@pytest.fixture
def fail(capsys):
    def call(*arguments):
        assert main(["solve", *map(str, arguments)]) in (3, 4)
        return capsys.readouterr().err

    return call


def weights(out):
    return {row["task"]: row["weight"] for row in json.loads(out)["rows"]}


def test_names_and_every_digit_survive_the_studys_own_table(S, file, tmp_path):
    names, read = read_matrix(file)
    assert names == NAMES
    np.testing.assert_array_equal(read, S)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "affinity.csv").write_text(affinity_table(NAMES, S))
    np.testing.assert_array_equal(read_matrix(str(tmp_path / "study"))[1], S)


def test_parquet_and_npz_with_names(S, tmp_path):
    pq.write_table(pa.table({name: S[:, i] for i, name in enumerate(NAMES)}), tmp_path / "S.parquet")
    np.savez(tmp_path / "S.npz", S=S, names=np.array(NAMES))
    for kind in ("parquet", "npz"):
        names, read = read_matrix(str(tmp_path / f"S.{kind}"))
        assert names == NAMES
        np.testing.assert_array_equal(read, S)


def test_one_balance_in_three_spellings(S, file, run):
    expected = solve(S, 2.0).weights
    for balance in (["--tau", 2], ["--beta", 0.8, "--lambda", 2]):
        np.testing.assert_allclose(list(weights(run(file, *balance, "--json")[0]).values()), expected, atol=1e-12)
    out, err = run(file, "--tau", 2)
    assert [line.split("\t")[0] for line in out.splitlines()] == NAMES
    assert "certified gap" in err


def test_without_a_balance_the_path_in_brief(S, file, run):
    out, err = run(file)
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header[:3] == ["task", "tau=0", "tau=0.25"]
    assert {row[0] for row in rows} == set(NAMES)
    at = header.index("tau=1")
    assert all(float(row[at]) == pytest.approx(0.2) for row in rows)
    assert "no balance was given: --tau" in err


def test_the_whole_path(S, file, run):
    table = json.loads(run(file, "--path", "--json")[0])
    whole = path(S)
    assert [row["tau"] for row in table["rows"]] == whole.tau.tolist()
    assert table["rows"][0]["mawps"] == whole.weights[0, 1]


def test_limits(S, file, run, tmp_path):
    given = ["--floor", 0.25, "--min", "copa=0.3", "--max", "rte=0.1", "--fix", "boolq=0.07", "--tau", 0]
    found = weights(run(file, *given, "--json")[0])
    lower, upper = np.full(5, 0.05), np.ones(5)
    lower[3], upper[4], lower[0], upper[0] = 0.3, 0.1, 0.07, 0.07
    np.testing.assert_allclose(list(found.values()), solve(S, 0.0, lower=lower, upper=upper).weights, atol=1e-12)
    (tmp_path / "target.csv").write_text("boolq,1\nrte,3\n")
    found = weights(run(file, "--target", tmp_path / "target.csv", "--tau", 1, "--json")[0])
    assert found == pytest.approx({"boolq": 0.25, "mawps": 0, "sst2": 0, "copa": 0, "rte": 0.75})
    (tmp_path / "u.csv").write_text("task,utility\n" + "".join(f"{name},{i}\n" for i, name in enumerate(NAMES)))
    found = weights(run(file, "--utility", tmp_path / "u.csv", "--tau", 1, "--json")[0])
    np.testing.assert_allclose(list(found.values()), solve(S, 1.0, utility=np.arange(5.0)).weights, atol=1e-12)


def test_patterns_and_groups(S, file, run):
    found = weights(
        run(file, "--min", "*=0.1", "--group-max", "[br]*=0.25", "--group-min", "copa=0.4", "--tau", 0.5, "--json")[0]
    )
    groups = [Group(np.array([0, 4]), high=0.25), Group(np.array([3]), low=0.4)]
    expected = solve_grouped(S, 0.5, groups, lower=np.full(5, 0.1))
    np.testing.assert_allclose(list(found.values()), expected.weights, atol=1e-12)
    assert found["boolq"] + found["rte"] == pytest.approx(0.25)
    rows = json.loads(run(file, "--group-max", "[br]*=0.25", "--path", "--json")[0])["rows"]
    assert all(row["boolq"] + row["rte"] <= 0.25 + 1e-9 for row in rows)


def test_few_tasks_with_their_certificate(S, file, run):
    out, err = run(file, "--max-tasks", 2, "--tau", 0.5, "--json")
    chosen = select(S, 2, 0.5)
    assert {name for name, weight in weights(out).items() if weight} == {NAMES[i] for i in chosen.tasks}
    assert f"at most {chosen.gap:.3g} above that of any number of tasks" in err
    rows = json.loads(run(file, "--max-tasks", 2, "--tau", 0.5, "--influence", "--json")[0])["rows"]
    # The path of these two alone is not that of the best two.
    assert all(row["entry_tau"] is None and row["exit_tau"] is None for row in rows)


def test_counts_influence_and_csv(S, file, run):
    out, _ = run(file, "--tau", 0.5, "--examples", 1000, "--influence", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert sum(int(row["count"]) for row in rows) == 1000
    expected = influence(S, solve(S, 0.5))
    np.testing.assert_allclose([float(row["drop_cost"]) for row in rows], expected.drop_cost)
    np.testing.assert_allclose([float(row["redundancy"]) for row in rows], expected.redundancy)


def test_distances_triangles_and_a_missing_diagonal(S, run, tmp_path):
    D = -np.log(S)
    np.savetxt(tmp_path / "D.csv", D, delimiter=",")
    gamma = np.log(2) / np.median(D[np.triu_indices(5, 1)])
    for option, expected in (([], np.exp(-gamma * D)), ([1.0], S)):
        found = weights(run(tmp_path / "D.csv", "--distance", *option, "--tau", 0.5, "--json")[0])
        np.testing.assert_allclose(list(found.values()), solve(expected, 0.5).weights, atol=1e-9)
    half = np.triu(S, 1)
    half[np.tril_indices(5)] = np.nan
    (tmp_path / "U.csv").write_text(affinity_table(NAMES, half))
    found = weights(run(tmp_path / "U.csv", "--triangle", "upper", "--diagonal", 1, "--tau", 0.5, "--json")[0])
    np.testing.assert_allclose(list(found.values()), solve(S, 0.5).weights, atol=1e-12)


def test_a_plot(file, run, tmp_path):
    run(file, "--plot", tmp_path / "path.html", "--tau", 1)
    assert "plotly" in (tmp_path / "path.html").read_text()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda S: -np.log(S), ["--tau", "1"], "are these distances? --distance says so"),
        (lambda S: np.where(np.eye(5) > 0, np.nan, S), ["--tau", "1"], "--diagonal VALUE fills the diagonal"),
        (
            lambda S: np.where(np.triu(np.ones((5, 5)), 1) > 0, np.nan, S),
            ["--tau", "1"],
            "--triangle upper | lower mir",
        ),
        (lambda S: S[:4], ["--tau", "1"], "a square matrix is needed, this one has the shape (4, 5)"),
        (lambda S: -S, ["--distance", "--tau", "1"], "distances must not be negative"),
        (lambda S: S, ["--distance", "soft", "--tau", "1"], "--distance takes gamma"),
        (lambda S: S, ["--beta", "1"], "--beta and --lambda go together"),
        (lambda S: S, ["--beta", "1", "--lambda", "1", "--tau", "1"], "give the balance once"),
        (lambda S: S, ["--tau", "1", "--min", "rte"], "'rte' is not TASK=SHARE"),
        (lambda S: S, ["--tau", "1", "--fix", "nli=0.1"], "'nli=0.1' is not TASK=SHARE with one of the tasks boolq"),
        (
            lambda S: S,
            ["--tau", "1", "--max", "rte=0.1", "--min", "rte=0.3"],
            "time: --min rte=0.3; --max rte=0.1",
        ),
        (lambda S: S, ["--tau", "1", "--group-max", "*=0.9"], "same time: --group-max *=0.9"),
        (lambda S: S, ["--tau", "1", "--group-max", "r*=0.9", "--influence"], "--influence is not known where groups"),
    ],
)
def test_mistakes_are_one_line(S, tmp_path, fail, change, options, message):
    made = change(S)
    lines = affinity_table(NAMES, made) if made.shape == (5, 5) else "\n".join(",".join(map(str, r)) for r in made)
    (tmp_path / "S.csv").write_text(lines)
    assert message in fail(tmp_path / "S.csv", *options)


@pytest.fixture
def indefinite(tmp_path):
    A = np.random.default_rng(5).normal(size=(5, 5))
    S = A + A.T
    np.fill_diagonal(S, 0.0)
    (tmp_path / "pmi.csv").write_text(affinity_table(NAMES, S))
    return S, str(tmp_path / "pmi.csv")


def test_an_indefinite_matrix_is_refused_and_each_repair_says_what_it_changed(indefinite, run, fail):
    S, file = indefinite
    assert "taskpgm solve --repair project | shift | clip" in fail(file, "--tau", "0.5")
    for method in ("project", "shift", "clip"):
        mended, change = repaired(S, method)
        out, err = run(file, "--tau", "0.5", "--repair", method, "--json")
        assert weights(out) == pytest.approx(dict(zip(NAMES, solve(mended, 0.5).weights, strict=True)))
        assert f"# repaired: {change.method}" in err
        assert f"S changed by {change.relative_change:.1%}" in err
    assert "breakpoints" in run(file, "--repair", "project", "--json")[0]


def test_the_papers_method_stands_beside_the_exact_mixture(indefinite, S, file, run, fail):
    matrix, named = indefinite
    out, _ = run(named, "--tau", "0.5", "--method", "paper", "--json")
    found = beside_exact(matrix, 0.5)
    facts = json.loads(out)
    assert weights(out) == pytest.approx(dict(zip(NAMES, found.weights, strict=True)))
    assert facts["distance"] == pytest.approx(found.distance)
    assert facts["excess"] == pytest.approx(found.excess)
    assert [row["exact"] for row in facts["rows"]] == pytest.approx(found.exact.weights.tolist())
    assert "of it lies elsewhere" in run(file, "--tau", "0.5", "--method", "paper", "--examples", "100")[1]
    assert "needs a balance" in fail(file, "--method", "paper")
    assert "knows no --floor" in fail(file, "--tau", "1", "--method", "paper", "--floor", "0.1")


def test_the_papers_laplacian_variant_takes_limits_and_paths_but_no_repair(indefinite, S, run, fail):
    matrix, named = indefinite
    graph, degrees = laplacian(matrix)
    out, _ = run(named, "--tau", "2", "--method", "laplacian", "--json")
    assert weights(out) == pytest.approx(dict(zip(NAMES, solve(graph, 2.0, utility=degrees).weights, strict=True)))
    held = weights(run(named, "--tau", "200", "--method", "laplacian", "--floor", "0.5", "--json")[0])
    assert min(held.values()) == pytest.approx(0.5 / len(NAMES))
    uniform = weights(run(named, "--tau", "0", "--method", "laplacian", "--json")[0])
    assert list(uniform.values()) == pytest.approx([1 / len(NAMES)] * len(NAMES))
    assert "breakpoints" in run(named, "--method", "laplacian", "--json")[0]
    assert "knows no --repair" in fail(named, "--tau", "1", "--method", "laplacian", "--repair", "clip")
    assert "knows no --influence" in fail(named, "--tau", "1", "--method", "laplacian", "--influence")
