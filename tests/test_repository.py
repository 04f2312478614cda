"""The files around the package: cluster launcher, job configs, lock file, and what may import what."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from taskpgm_ray.config import load_config

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "taskpgm_ray"


def test_the_cluster_launcher_file_fits_rays_schema():
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"]["GPU"] == 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_wrokers": 1}, schema)


@pytest.mark.parametrize("file", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_job_config_is_valid_and_survives_a_round_trip(file):
    config = load_config(file)
    assert load_config(yaml.safe_load(config.to_yaml())) == config


def test_the_lock_file_holds_every_dependency_and_nothing_that_clashes():
    def canonical(name):
        return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", name)[0]).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements" / "cpu.txt").read_text().split()
    assert all("==" in line for line in lines)
    locked = {canonical(line) for line in lines}
    extras = [d for name in ("cpu", "quickstart", "bench", "dev") for d in project["optional-dependencies"][name]]
    wanted = {canonical(d) for d in [*project["dependencies"], *extras]} - {"torch"}
    assert not wanted - locked
    assert not {"torch", "torchvision", "torchaudio", "torchcodec", "triton"} & locked


def imports(file: Path) -> set[str]:
    """Top-level names that a file imports anywhere, and the package's own rooms as ``taskpgm_ray.room``."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {".".join(name.split(".")[:2]) if name.startswith("taskpgm_ray") else name.split(".")[0] for name in found}


def test_the_mathematics_imports_neither_ray_nor_torch():
    pure = [f for room in ("mrf", "affinity", "mixture") for f in (PACKAGE / room).glob("*.py")]
    # The affinity room's job and its stage are where stored distributions meet the mathematics.
    shell = {"distributed.py", "stage.py"}
    assert len(pure) > 10
    for file in pure:
        if file.name not in shell:
            assert not imports(file) & {"ray", "torch", "transformers", "vllm", "pyarrow", "pydantic"}, file


def test_the_training_loop_does_not_import_ray():
    assert "ray" not in imports(PACKAGE / "finetune" / "lora.py")


def test_only_the_engine_imports_vllm():
    users = {file.name for file in PACKAGE.rglob("*.py") if "vllm" in imports(file)}
    assert users == {"vllm_engine.py", "cpu_lora.py"}


def test_no_file_starts_engines_or_trainers_but_the_two_that_own_them():
    trainers = {file.name for file in PACKAGE.rglob("*.py") if "TorchTrainer(" in file.read_text()}
    engines = {file.name for file in PACKAGE.rglob("*.py") if "ray.remote(EngineActor)" in file.read_text()}
    assert trainers == {"lane.py"}
    assert engines == {"pool.py"}
