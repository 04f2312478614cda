"""A whole small study on real Ray, real Ray Train lanes, real vLLM and real lm-eval; resume; the same as a Ray job."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from taskpgm_ray.affinity.stored import read
from taskpgm_ray.storage import Storage, Unit
from tests.integration.job_head import JobHead
from tests.integration.studies import optimize, optimize_command, units

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    """A finished study: its folder, its config file, and what its run printed."""
    root = tmp_path_factory.mktemp("studies")
    config_file = root / "tiny.yaml"
    config_file.write_text(yaml.safe_dump(tiny_config("runs")))
    printed = optimize(config_file)
    return root / "runs" / "tiny", config_file, printed


def test_every_stage_left_its_artifacts(finished):
    folder, _, printed = finished
    storage = Storage(str(folder))
    assert len(storage.names("tasks")) == 4
    # By default every one of so few tasks is fine-tuned with a second seed, for the noise floor.
    assert len(storage.names("adapters")) == 8
    scores = [name for segment in storage.names("scores") for name in storage.names(f"scores/{segment}")]
    # The base model, and of each task two adapters and the first one half-way.
    assert len(scores) == 13
    assert len(storage.names("parts")) == 4
    assert len(storage.names("noise")) == 1
    kinds = {name.rpartition("-")[0].rpartition("-seed")[0] for name in storage.names("trials")}
    # The small tasks are of one size, so the two baselines are one mixture and trained once.
    assert "uniform" in kinds
    assert "proportional" not in kinds
    assert any(kind.startswith("tau-") for kind in kinds)
    for stage in ("tasks", "finetune", "score", "affinity", "search", "report split"):
        assert re.search(rf"^{stage}: ", printed, re.M), stage
    # Nothing of Tune's and Ray's own.
    for word in ("TensorBoard", "Configuration for experiment", "worker processes", "(raylet)"):
        assert word not in printed
    assert printed.startswith("study tiny in runs/tiny\n")


def test_adapters_are_standard_peft_folders_with_metrics(finished):
    storage = Storage(str(finished[0]))
    for name in storage.names("adapters"):
        assert {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "manifest.json"} <= set(
            storage.names(f"adapters/{name}")
        )
        manifest = storage.read_json(f"adapters/{name}/manifest.json")
        assert manifest["heldout_loss_after"] < manifest["heldout_loss_before"], name
        assert 0 < manifest["usable"]["error"] < manifest["usable"]["surprise"], name


def test_the_mixture_document_is_whole(finished):
    from taskpgm_ray.export import load_mixture

    mixture = load_mixture(finished[0] / "mixture.json")
    assert sum(task["count"] for task in mixture["tasks"]) == 10_000
    assert np.isclose(sum(task["weight"] for task in mixture["tasks"]), 1.0)
    assert mixture["beta_over_lambda"] == pytest.approx(mixture["tau"] / 4)
    assert abs(mixture["gap"]) < 1e-9


def test_the_report_names_every_task_and_needs_no_network(finished):
    page = (finished[0] / "report.html").read_text()
    mixture = json.loads((finished[0] / "mixture.json").read_text())
    assert all(task["name"] in page for task in mixture["tasks"])
    assert "settled by its question" in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?:', page)


def test_the_affinity_equals_a_plain_computation_from_the_stored_distributions(finished):
    """Everything by hand from Parquet: read, pad with the tail, JSD as entropies, the documented weights."""
    import pyarrow.parquet as pq

    folder = finished[0]
    mixture = json.loads((folder / "mixture.json").read_text())
    names = [task["name"] for task in mixture["tasks"]]
    (segment,) = (folder / "segments").glob("*/*")
    positions = pq.read_table(segment / "positions.parquet").to_pandas()
    assert len(positions) >= 4 * 6
    weights = np.zeros(len(positions))
    for _, block in positions.groupby("task"):
        for _, probe in block.groupby("probe"):
            weights[probe.index] = 1 / (len(probe) * block["probe"].nunique())
    weights /= weights.sum()
    distributions = []
    for name in [name + which for which in ("", "@second", "@half") for name in names]:
        (file,) = (folder / "scores").glob(f"*/{name}-*/logprobs.parquet")
        p = np.exp(np.stack(pq.read_table(file)["logprobs"].to_pylist()).astype(np.float64))
        distributions.append(np.column_stack([p, np.clip(1 - p.sum(1), 0, None)]))

    def entropy(p):
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(1)

    expected = np.array(
        [
            [weights @ (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2) for q in distributions]
            for p in distributions
        ]
    )
    # The first is the pool's, the other one of the same adapters half-way.
    pool, half = sorted((folder / "affinity").iterdir(), key=lambda unit: (unit / "manifest.json").stat().st_mtime)
    stored, early = (
        pq.read_table(unit / "matrices.parquet")["divergence"].to_numpy().reshape(4, 4) for unit in (pool, half)
    )
    np.testing.assert_allclose(stored, expected[:4, :4], atol=1e-11)
    np.testing.assert_allclose(early, expected[8:, 8:], atol=1e-11)
    floors = np.diag(expected[:4, 4:8])
    (noise,) = (folder / "noise").glob("*/manifest.json")
    measured = json.loads(noise.read_text())
    rows = [measured["divergences"][measured["tasks"].index(name)] for name in names]
    np.testing.assert_allclose(rows, expected[4:8, :4], rtol=1e-8)
    assert floors.min() > 0
    pairs = stored[np.triu_indices(4, 1)]
    above = pairs[pairs > 2 * floors.mean()] - floors.mean()
    assert mixture["gamma"] == pytest.approx(np.log(10) / np.median(above))
    view = read(Unit(Storage(str(folder)), f"affinity/{pool.name}"), pool.name).view("jsd", 3.0)
    np.testing.assert_allclose(view, np.exp(-3.0 * stored), atol=1e-10)


def test_search_and_report_items_never_meet(finished):
    folder = finished[0]
    searched = {row["item"] for f in folder.glob("trials/*/items.json") for row in json.loads(f.read_text())}
    reported = {row["item"] for f in folder.glob("reported/*/items.json") for row in json.loads(f.read_text())}
    assert searched
    assert reported
    assert not searched & reported


def test_a_finished_study_starts_nothing_again(finished):
    folder, config_file, _ = finished
    before = units(folder)
    code = (
        "import sys; sys.argv = ['optimize.py', '--config', sys.argv[1]]\n"
        "from taskpgm_ray.cli import main\n"
        "assert main(['run', *sys.argv[1:]]) == 0\n"
        "import ray\n"
        "assert not ray.is_initialized()\n"
        "assert not (heavy := {'torch', 'vllm', 'transformers', 'lm_eval'} & set(sys.modules)), heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(config_file)],
        cwd=config_file.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert units(folder) == before


def test_the_python_interface_does_the_same(finished):
    from rich.console import Console

    from taskpgm_ray import Study, load_config

    folder, config_file, _ = finished
    before = units(folder)
    result = Study(load_config(config_file, [f"storage={folder.parent}"]), console=Console(quiet=True)).run()
    assert result.mixture == json.loads((folder / "mixture.json").read_text())
    assert result.affinity.S.shape == (4, 4)
    assert units(folder) == before


def test_a_task_that_failed_for_good_is_left_out_of_everything(finished, tmp_path):
    import shutil

    folder, config_file, _ = finished
    copy = tmp_path / "runs" / "tiny"
    shutil.copytree(folder, copy)
    # Each task has an adapter of another seed as well, for the noise floor.
    lost = next(unit for unit in sorted((copy / "adapters").iterdir()) if adapter_seed(unit) == 0)
    (lost / "manifest.json").unlink()
    (lost / "failure.json").write_text('{"error": "TrainingError", "message": "the loss became nan"}')
    printed = optimize(
        config_file,
        f"storage={tmp_path / 'runs'}",
        "finetune.on_task_failure=skip",
        "search.balances=0",
        "mixture.tau=1",
    )
    name = lost.name.rpartition("-")[0]
    mixture = json.loads((copy / "mixture.json").read_text())
    assert len(mixture["tasks"]) == 3
    assert name not in [task["name"] for task in mixture["tasks"]]
    assert sum(task["count"] for task in mixture["tasks"]) == 10_000
    assert not (lost / "manifest.json").exists(), "it was trained again"
    said = f"{name} was left out of the pool: the loss became nan"
    assert said in printed
    assert said in (copy / "report.html").read_text()


def adapter_seed(unit):
    return json.loads((unit / "manifest.json").read_text())["seed"]


@pytest.mark.long
def test_one_cpu_is_enough(tiny_config, tiny_pool, tmp_path):
    """Lanes, engines and the affinity job take turns; no stage waits for what another one holds."""
    evaluation = {"max_subjects": 1, "max_bbh_tasks": 1, "report_seeds": 1, "samples": 0}
    config = tiny_config("runs", cluster={"num_cpus": 1}, evaluation=evaluation)
    config["pool"] |= {"tasks": [f"jsonl:{tiny_pool}"], "include": ["copy", "sum"]}
    config["finetune"]["lanes"] |= {"cpus": 0.9, "idle_seconds": 2}
    config["scoring"]["engines"] |= {"cpus": 0.9, "idle_seconds": 2}
    config["scoring"]["scorer"] = "hf"  # of which a start takes a few seconds: here they are many
    config["search"] = {"balances": 1, "baselines": ["uniform"]}
    config["affinity"] = {"gamma": "median", "halfway_tasks": 0}
    config_file = tmp_path / "one.yaml"
    config_file.write_text(yaml.safe_dump(config))
    optimize(config_file)
    assert (tmp_path / "runs" / "tiny" / "mixture.json").exists()


def test_the_same_study_as_a_ray_job_on_a_token_protected_cluster(finished, tmp_path):
    """`ray start --head`, `ray job submit -- python jobs/optimize.py`: the job does what is missing, and nothing else.

    One adapter, its scores and one trial are lost.
    """
    import shutil

    folder, config_file, _ = finished
    copy = tmp_path / "runs" / "tiny"
    shutil.copytree(folder, copy)
    mixture = (copy / "mixture.json").read_bytes()
    lost = [sorted((copy / "adapters").iterdir())[0], sorted((copy / "trials").iterdir())[0]]
    lost.append(next((copy / "scores").glob(f"*/{lost[0].name.rpartition('-')[0]}-*")))
    names = {str(path.relative_to(copy)) for path in lost}
    for path in lost:
        shutil.rmtree(path)
    before = units(copy)
    entrypoint = optimize_command(config_file, f"storage={copy.parent}")
    with JobHead(tmp_path) as head:
        refused = head.job(
            "submit", "--", *entrypoint, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"), RAY_AUTH_TOKEN="f" * 64
        )
        assert refused.returncode != 0
        done = head.job("submit", "--", *entrypoint)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert "succeeded" in done.stdout
    after = units(copy)
    assert {name for name, at in after.items() if before.get(name) != at} == names
    # On the CPU in float32 the adapter that was trained again is the same, so everything behind it is.
    assert (copy / "mixture.json").read_bytes() == mixture
