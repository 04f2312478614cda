"""The mathematical rooms stand on one another in one direction, and no name hides a module."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import taskpgm_ray

PACKAGE = Path(taskpgm_ray.__file__).parent
MAY_IMPORT = {
    "numerics": {"numerics"},
    "affinity": {"affinity", "numerics"},
    "mrf": {"mrf", "numerics"},
    "mixture": {"mixture", "numerics"},
}
ON_RAY = {"distributed.py", "stage.py", "stored.py"}
"""The files of ``affinity`` that belong to a study and use its other rooms."""


def imports(file):
    """The modules of the package that a file imports, as dotted names below it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("taskpgm_ray.") for name in names if name.startswith("taskpgm_ray."))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_lies_below(room):
    for file in (PACKAGE / room).rglob("*.py"):
        if room == "affinity" and file.name in ON_RAY:
            continue
        used = {name.split(".")[0] for name in imports(file)}
        assert used <= MAY_IMPORT[room] | {"errors"}, file


def test_engines_stand_on_energy_and_checks_alone():
    for file in (PACKAGE / "mrf/solvers").glob("*.py"):
        above = {name.split(".")[1] for name in imports(file) if name.startswith("mrf.")}
        assert above <= {"energy", "checks", "solvers"}, file


@pytest.mark.parametrize("room", [*MAY_IMPORT, "mrf.solvers"])
def test_no_name_hides_a_module(room):
    package = importlib.import_module(f"taskpgm_ray.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        bound = getattr(package, module.name, None)
        assert bound is None or bound is importlib.import_module(f"taskpgm_ray.{room}.{module.name}")
