"""The command line: what it needs to start, what it prints, and how it fails."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from taskpgm_ray.cli import main

HEAVY = ("torch", "ray", "vllm", "transformers", "pandas", "peft", "lm_eval", "datasets", "plotly", "sklearn")

LIGHT = (
    *("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "yaml", "rich"),
    *("markdown_it", "mdurl", "pygments", "pyarrow", "psutil", "threadpoolctl"),
)
"""What the package installs without an extra, beside the mathematics."""

HELP = """
from taskpgm_ray.cli import main
for arguments in {}:
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
"""

ONLY_THE_MATHEMATICS = """
import sys

ALLOWED = {"numpy", "scipy", "numba", "llvmlite", "taskpgm_ray", *sys.stdlib_module_names}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)


sys.meta_path.insert(0, Blocker())
"""


def python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "code",
    [
        "import taskpgm_ray",
        "import taskpgm_ray.config, taskpgm_ray.errors",
        HELP.format([["--help"]]),
        HELP.format([["run", "--help"], ["solve", "--help"]]),
        "from taskpgm_ray import load_config",
    ],
)
def test_starting_imports_nothing_heavy(code):
    done = python(f"{code}\nimport sys\nassert not set(sys.modules) & set({HEAVY}), set(sys.modules) & set({HEAVY})")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suffix", ["csv", "npy", "txt"])
def test_solve_needs_numpy_scipy_and_numba_only(tmp_path, suffix):
    S = np.array([[1.0, 0.6, 0.1], [0.6, 1.0, 0.1], [0.1, 0.1, 1.0]])
    file = tmp_path / f"S.{suffix}"
    if suffix == "npy":
        np.save(file, S)
    else:
        np.savetxt(file, S, delimiter="," if suffix == "csv" else " ")
    code = ONLY_THE_MATHEMATICS + "from taskpgm_ray.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = python(code, "solve", str(file), "--tau", "0", "--examples", "100")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    weights = np.array([float(row[1]) for row in rows])
    # At tau = 0 the mixture is S^-1 1, scaled to sum 1 (all its entries are positive here).
    expected = np.linalg.solve(S, np.ones(3))
    np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-10)
    assert sum(int(row[2]) for row in rows) == 100
    assert "certified gap" in done.stderr


def test_the_blocker_of_these_tests_blocks():
    done = python(ONLY_THE_MATHEMATICS + "import pydantic")
    assert done.returncode == 1
    assert "blocked: pydantic" in done.stderr


def test_a_study_without_its_packages_says_what_to_install(tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(
        "study: s\nmixture: {tau: 1}\nsearch: {balances: 0}\npool: {tasks: [jsonl:a]}\nfinetune: {steps: 1}"
    )
    code = ONLY_THE_MATHEMATICS.replace("ALLOWED = {", f"ALLOWED = {{*{LIGHT}, ")
    done = python(
        f"{code}from taskpgm_ray.cli import main\nsys.exit(main(sys.argv[1:]))", "run", "--config", str(config)
    )
    assert done.returncode == 5, done.stderr
    assert "is not installed, which studies need: pip install 'taskpgm-ray[gpu]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2\n3\n", "is not a readable matrix"),
        ("1,0,0\n0,1,0\n", "square"),
        ("1,0.5\n0.1,1\n", "symmetric"),
        ("a,b\nc,d\n", "is not a readable matrix"),
    ],
)
def test_a_wrong_matrix_is_one_clear_line(tmp_path, capsys, content, message):
    file = tmp_path / "S.csv"
    file.write_text(content)
    assert main(["solve", str(file)]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("taskpgm: InputError: ")
    assert message in err
    assert "Traceback" not in err


def test_pickles_are_not_read(tmp_path, capsys):
    np.save(tmp_path / "S.npy", np.array([[object()]]), allow_pickle=True)
    assert main(["solve", str(tmp_path / "S.npy")]) == 4
    assert "is not a readable matrix" in capsys.readouterr().err


def test_no_command_and_unknown_commands_show_the_usage(capsys):
    for arguments in ([], ["fly"], ["run"], ["solve"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert "usage: taskpgm" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "validate", "finetune", "score", "affinity"])
def test_a_missing_config_ends_every_command_alike(command, capsys):
    assert main([command, "--config", "nowhere.yaml", "seed=1"]) == 3
    assert capsys.readouterr().err == (
        f"taskpgm: ConfigError: there is no config file 'nowhere.yaml' (looked in {os.getcwd()}); "
        "give its path after --config\n"
    )


def test_overrides_reach_the_config(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text("study: s\npool: {tasks: ['jsonl:a']}\nfinetune: {steps: 1}\n")
    assert main(["validate", "--config", str(file), "search.balence=3"]) == 3
    assert "unknown key 'search.balence'; did you mean 'balances'?" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("taskpgm_ray.commands.study.run", interrupted)
    assert main(["run", "--config", "x"]) == 130
    assert "finished work is kept" in capsys.readouterr().err


def test_the_version(capsys):
    from taskpgm_ray import __version__

    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_the_package_has_no_other_lazy_names():
    import taskpgm_ray

    assert taskpgm_ray.load_config.__module__ == "taskpgm_ray.config"
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'"):
        _ = taskpgm_ray.nothing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--finetune.steps", "3"], "--finetune.steps is no option; .*without dashes: finetune.steps=3\n"),
        (["--finetune.steps=3"], "without dashes: finetune.steps=3\n"),
        (["--lr", "1e-4", "seed=1"], "--lr is no option; .*: finetune.learning_rate=1e-4\n"),
        (["--learning-rate", "1e-4"], ": finetune.learning_rate=1e-4\n"),
        (
            ["--num_train_epochs", "3"],
            r"finetune.tokens \(every task gets .* epochs\) here; .*: finetune.steps=\.\.\.\n",
        ),
        (["--warmup_steps=100"], r"_fraction \(a part of the budget\) here; .*: finetune.warmup_fraction=\.\.\.\n"),
        (["--per_device_train_batch_size", "8"], r"\(examples of a step over all workers\) here; .*_size=\.\.\.\n"),
        (["--bf16", "true"], r"model.dtype \(bfloat16 or float32\) here; .*: model.dtype=\.\.\.\n"),
        (["--gpus", "1"], ": finetune.lanes.gpus=1 or scoring.engines.gpus=1\n"),
        (["--seed"], r": seed=\.\.\. or|: seed=\.\.\.\n"),
        (["--verbose"], "unrecognized argument: --verbose; config values are given without dashes: section"),
    ],
)
def test_config_values_with_dashes_get_a_hint(capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        main(["run", "--config", "study.yaml", *arguments])
    assert end.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def test_an_unknown_option_of_a_command_without_a_config(capsys):
    with pytest.raises(SystemExit):
        main(["solve", "S.csv", "--lr", "3"])
    assert "unrecognized argument: --lr\n" in capsys.readouterr().err


def test_every_mistake_in_a_config_has_its_line(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text("study: a/b\nlr: 1\npool: {tasks: x, max_tasks: 0}\nfinetune: {epochs: 1, batch_size: 0}\n")
    assert main(["validate", "--config", str(file)]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert all(line.startswith(f"taskpgm: ConfigError: {file}: ") for line in lines)


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word():
    command = f"{sys.executable} -m taskpgm_ray.cli config --reference"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    # The pipe may be large enough for all of it.
    assert done.returncode in (0, 141)
    code = (
        "import os, sys\nfrom taskpgm_ray.cli import main\nread, write = os.pipe()\nos.close(read)\n"
        "os.dup2(write, 1)\nsys.exit(main(['config', '--schema']))"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (141, "")
