"""How far a study is, from its folder alone: what is finished, what failed, what is left, and who works on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from taskpgm_ray.config import PROXY, StudyConfig, load_config
from taskpgm_ray.errors import InputError, MissingFileError
from taskpgm_ray.finetune.checkpoint import FILE as CHECKPOINT
from taskpgm_ray.finetune.stage import FAILURE
from taskpgm_ray.runtime.lease import current_driver
from taskpgm_ray.storage import MANIFEST, Storage
from taskpgm_ray.workload import jobs_by_kind

RAY = "ray"
"""Folder of Ray Train's own files: checkpoints of jobs that run."""
SAMPLED = 20
"""Manifests by which the seconds of a fine-tune are judged."""
UNITS = {
    "tasks": "tasks prepared",
    "adapters": "single-task adapters",
    "parts": "adapters part-way",
    "scores": "sets of scores",
    "mixtures": "fine-tunes on mixtures",
    "trials": "trials scored",
    "reported": "fine-tunes judged",
}
"""Folders of units, and what a unit is called."""


@dataclass(frozen=True)
class Progress:
    """One kind of unit."""

    what: str
    done: int
    begun: int
    """Units that something was written of and that are not finished."""
    failed: int
    planned: int | None
    """At most so many, by the config; ``None``: not known."""


@dataclass(frozen=True)
class State:
    """Of one study."""

    folder: str
    finished: bool
    """Whether it has its mixture."""
    driver: str | None
    """Who works on it, or worked on it until it died."""
    alive: bool | None
    """Whether that driver lives; ``None``: nobody knows, or there is none."""
    units: tuple[Progress, ...]
    failures: Mapping[str, str]
    """Unit -> why it failed for good."""
    bytes: int
    seconds_left: float | None
    """Of fine-tuning, with all lanes; ``None``: not known."""


def state_of(storage: Storage) -> State:
    """Look at a study's folder; nothing is started.

    Raises:
        InputError: There is no study.
    """
    sizes = _files(storage)
    config = _config(storage)
    found: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for unit, files in _units(sizes).items():
        found[kind_of(unit)][unit] = files
    done = {kind: [unit for unit, files in units.items() if MANIFEST in files] for kind, units in found.items()}
    # One that was tried again, and came to its end, keeps the record of its failure.
    failed = [u for units in found.values() for u, files in units.items() if FAILURE in files and MANIFEST not in files]
    planned = (
        _planned(config, sum(not unit.startswith(f"{PROXY}/") for unit in done.get("tasks", []))) if config else {}
    )
    holder = current_driver(storage)
    return State(
        folder=storage.uri,
        finished="mixture.json" in sizes,
        driver=holder and holder[0],
        alive=holder and holder[1],
        units=tuple(
            Progress(
                what,
                len(done.get(kind, [])),
                sum(MANIFEST not in files and FAILURE not in files for files in found[kind].values()),
                sum(kind_of(unit) == kind for unit in failed),
                planned.get(kind),
            )
            for kind, what in UNITS.items()
            if kind in found or kind in planned
        ),
        failures={unit: storage.read_json(f"{unit}/{FAILURE}")["message"] for unit in sorted(failed)},
        bytes=sum(sizes.values()),
        seconds_left=_left(storage, config, done, planned) if config and "mixture.json" not in sizes else None,
    )


def leftovers(storage: Storage, failed: bool = False, begun: bool = False) -> dict[str, int]:
    """Folders that no later run of a study needs, and their bytes: units that were never finished, and Ray's own files.

    Args:
        storage: The study's folder.
        failed: Also units that hold nothing but the record of a failure, and records of searches whose trials failed.
        begun: Also fine-tunes that were saved on their way, from where a later run would go on.

    Raises:
        InputError: There is no study.
    """
    sizes = _files(storage)
    units = _units(sizes)
    # Of a fine-tune that ended early, what it would go on from.
    cut = {
        unit.rpartition("-at-")[0] for unit, files in units.items() if MANIFEST in files and kind_of(unit) == "parts"
    }

    def is_left(unit: str, files: Mapping[str, int]) -> bool:
        if MANIFEST in files or FAILURE in files:
            return failed and MANIFEST not in files
        return _cut(unit) not in cut and (begun or CHECKPOINT not in files)

    found = {unit: sum(files.values()) for unit, files in sorted(units.items()) if is_left(unit, files)}
    for path, size in sizes.items() if failed else ():
        folder, _, name = path.rpartition("/")
        if folder.startswith("search/outcome-") and name == MANIFEST and storage.read_json(path)["failed"]:
            found[folder] = size
    for folder in (RAY, f"{PROXY}/{RAY}"):
        rays = [size for path, size in sizes.items() if path.startswith(f"{folder}/")]
        found |= {folder: sum(rays)} if rays else {}
    return found


def _files(storage: Storage) -> dict[str, int]:
    sizes = storage.sizes()
    if not sizes:
        raise InputError(f"{storage.uri} holds no study")
    return sizes


def _units(sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Folder of a unit, finished or not -> its files and their bytes; those of a proxy as well."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for path, size in sizes.items():
        folder, _, name = path.rpartition("/")
        if "/" in folder and kind_of(folder) in UNITS:
            found[folder][name] = size
    return found


def _cut(unit: str) -> str:
    """What the folders of a fine-tune's parts begin with."""
    folder, _, name = unit.rpartition("/")
    return f"{folder.removesuffix('adapters')}parts/{name}"


def kind_of(folder: str) -> str:
    """The kind of a unit: the folder that it lies in."""
    return folder.removeprefix(f"{PROXY}/").partition("/")[0]


def _config(storage: Storage) -> StudyConfig | None:
    import yaml

    try:
        return load_config(yaml.safe_load(storage.read_bytes("config.yaml")))
    except MissingFileError:
        return None


def _planned(config: StudyConfig, tasks: int) -> dict[str, int]:
    """At most how many units there will be of each kind."""
    jobs = jobs_by_kind(config, tasks)
    # With a proxy the tasks are tokenised for either model.
    models = 1 if config.affinity.model is None else 2
    planned = {"tasks": models * tasks}
    if (config.of_proxy() or config).finetune.early is None:
        planned["adapters"] = jobs["adapters"] + jobs["noise"]
    mixtures = sum(jobs[kind] for kind in ("trials", "finalists", "budgets", "final"))
    if mixtures:
        # The base model is judged too.
        planned |= {"mixtures": mixtures, "trials": jobs["trials"], "reported": jobs["finalists"] + jobs["budgets"] + 1}
    return planned


def _left(
    storage: Storage, config: StudyConfig, done: Mapping[str, list[str]], planned: Mapping[str, int]
) -> float | None:
    """Seconds of the fine-tunes that are left, by those that are finished."""
    seconds = 0.0
    for kind in ("adapters", "mixtures"):
        left = planned.get(kind, 0) - len(done.get(kind, []))
        known = done.get(kind) or done.get("adapters")
        if not known:
            return None
        manifests: list[dict[str, Any]] = [storage.read_json(f"{unit}/{MANIFEST}") for unit in islice(known, SAMPLED)]
        seconds += max(left, 0) * median(manifest["wall_seconds"] for manifest in manifests)
    return seconds / config.finetune.lanes.max
