"""The source ``reasoning_gym:``: problems that are generated, as many as are asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from taskpgm_ray.config import TaskSpec
from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.example import Reading
from taskpgm_ray.tasks.hub import spec_identity
from taskpgm_ray.tasks.layouts import read_records


@dataclass(frozen=True)
class ReasoningGym:
    """A generator of verifiable problems from the package reasoning-gym."""

    name: str
    dataset: str
    spec: TaskSpec

    @property
    def shown(self) -> str:
        """Where it comes from, for a reader."""
        return f"reasoning_gym:{self.dataset}"

    @classmethod
    def expand(cls, spec: TaskSpec, target: str, notes: list[str]) -> list[ReasoningGym]:
        """One task."""
        return [cls(spec.name or target, target, spec)]

    def identity(self) -> dict[str, Any]:
        """The package's version and the generator's parameters."""
        try:
            release = version("reasoning_gym")
        except PackageNotFoundError:
            raise DataError(
                f"the source {self.shown} needs a package that is not installed: pip install reasoning-gym"
            ) from None
        return {"version": release, **spec_identity(self.spec)}

    def read(self, limit: int, seed: int) -> Reading:
        """``limit`` problems generated from ``seed``."""
        try:
            problems = _reasoning_gym().create_dataset(self.dataset, size=limit, seed=seed, **self.spec.params)
        except (ValueError, TypeError, AssertionError) as error:
            raise DataError(f"{self.shown}: {error}; check the generator's name and `params`") from error
        records = [(f"{self.shown}, problem {number}", dict(record)) for number, record in enumerate(problems)]
        return read_records(records, len(records), self.spec, seed)


SOLVER = "pycosat"


def _reasoning_gym() -> Any:
    """The package, whether or not there is a SAT solver: it imports one, and only its zebra puzzles ask it.

    Pip has to build the solver, for which a machine needs a C compiler and Python's headers.
    """
    if SOLVER not in sys.modules and find_spec(SOLVER) is None:
        sys.modules[SOLVER] = _NoSolver(SOLVER)
    import reasoning_gym

    return reasoning_gym


class _NoSolver(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise DataError(
            f"this generator of reasoning-gym needs the package {SOLVER}, which is not installed: pip install "
            f"{SOLVER} (it is built, which takes a C compiler and Python's headers)"
        )
