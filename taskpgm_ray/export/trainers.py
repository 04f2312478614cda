"""The mixture in the formats of common trainers: a registry of small functions, each of which writes a few files.

A format that can sample by weight gets the weights; the others get a JSONL file that holds exactly the counts.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from taskpgm_ray.errors import InputError, StorageError
from taskpgm_ray.export.datasets_template import TEMPLATE
from taskpgm_ray.export.materialise import Files, materialise
from taskpgm_ray.export.mixture import check_mixture, take

BATCH_SIZE = 8
"""Examples per step in the training files; ``max_steps`` follows from it."""


@dataclass(frozen=True)
class Exporter:
    """One format."""

    name: str
    what: str
    """What it writes, in one line."""
    needs_files: bool
    """Whether it needs the files of the tasks' training examples."""
    write: Callable[[dict[str, Any], Path, Files], list[Path]]


EXPORTERS: dict[str, Exporter] = {}


def exporter(name: str, what: str, *, needs_files: bool) -> Callable[..., Any]:
    """Register a function ``(document, folder, files) -> paths written`` under a name."""

    def register(write: Callable[[dict[str, Any], Path, Files], list[Path]]) -> Any:
        EXPORTERS[name] = Exporter(name, what, needs_files, write)
        return write

    return register


def export(
    trainer: str,
    document: dict[str, Any],
    folder: str | os.PathLike[str],
    files: Files | None = None,
    which: Literal["recommended", "chosen"] = "recommended",
) -> list[Path]:
    """Write the mixture for one trainer.

    Args:
        trainer: Name of a format in ``EXPORTERS``.
        document: The content of ``mixture.json``.
        folder: Where to write; made when it is not there.
        files: For each task the JSONL file of its training examples; formats that need none ignore it.
        which: The mixture that the study recommends, or the one that its search chose.

    Returns:
        The files written, the one to start from first.

    Raises:
        InputError: The format is unknown, the document is no valid mixture, or the file of a task is not given.
        StorageError: A file is missing, or the folder cannot be written.
    """
    if trainer not in EXPORTERS:
        raise InputError(f"no exporter for {trainer!r}; there are: {', '.join(sorted(EXPORTERS))}")
    check_mixture(document, "the mixture")
    document = take(document, which)
    found: dict[str, str | os.PathLike[str]] = {}
    if EXPORTERS[trainer].needs_files:
        given = files or {}
        for task in _taken(document):
            if task["name"] not in given:
                raise InputError(f"{trainer} needs the data file of each task; there is none for {task['name']!r}")
            path = Path(given[task["name"]]).resolve()
            if not path.is_file():
                raise StorageError(f"task {task['name']!r}: there is no file {path}")
            found[task["name"]] = path
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return EXPORTERS[trainer].write(document, Path(folder), found)
    except OSError as error:
        raise StorageError(f"{os.fspath(folder)} cannot be written: {error}") from error


@exporter("csv", "mixture.csv: one row per task", needs_files=False)
def _csv(document: dict[str, Any], folder: Path, files: Files) -> list[Path]:
    path = folder / "mixture.csv"
    columns = ["name", "weight", "count", "available", "epochs", "source"]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(document["tasks"])
    return [path]


@exporter("jsonl", "mixture.jsonl: the counted examples themselves, shuffled", needs_files=True)
def _jsonl(document: dict[str, Any], folder: Path, files: Files) -> list[Path]:
    path = folder / "mixture.jsonl"
    materialise(document, files, path)
    return [path]


@exporter("datasets", "mixture_dataset.py for Hugging Face datasets: sampled or exact", needs_files=True)
def _datasets(document: dict[str, Any], folder: Path, files: Files) -> list[Path]:
    path = folder / "mixture_dataset.py"
    tasks = {
        task["name"]: {"file": os.fspath(files[task["name"]]), "weight": task["weight"], "count": task["count"]}
        for task in _taken(document)
    }
    # JSON of strings and numbers is also Python, and quotes whatever a name may hold.
    path.write_text(
        TEMPLATE.replace("@TASKS@", json.dumps(tasks, indent=4)).replace("@EXAMPLES@", str(document["examples"])),
        encoding="utf-8",
    )
    return [path]


@exporter("llamafactory", "dataset_info.json and two training YAMLs for LLaMA-Factory", needs_files=True)
def _llamafactory(document: dict[str, Any], folder: Path, files: Files) -> list[Path]:
    tasks = _taken(document)
    for task in tasks:
        if "," in task["name"]:
            raise InputError(f"LLaMA-Factory separates data sets by commas; rename the task {task['name']!r}")
    info = {
        task["name"]: {
            "file_name": os.fspath(files[task["name"]]),
            "columns": {"prompt": "prompt", "response": "response"},
            # Draws this many, repeating examples where the file has fewer; ignored when streaming.
            "num_samples": task["count"],
        }
        for task in tasks
    }
    common = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset_dir": os.fspath(folder.resolve()),
        "dataset": ",".join(task["name"] for task in tasks),
        "template": "default",
        "per_device_train_batch_size": BATCH_SIZE,
        "output_dir": "output",
    }
    exact = common | {"mix_strategy": "concat", "num_train_epochs": 1.0}
    # A stream has no length, so the budget must be given in steps. "over" repeats small tasks until each is used up;
    # "under" would start all tasks anew as soon as the smallest is.
    sampled = common | {
        "streaming": True,
        "mix_strategy": "interleave_over",
        "interleave_probs": ",".join(repr(p) for p in _probabilities(tasks)),
        "max_steps": _steps(document),
    }
    registry = folder / "dataset_info.json"
    registry.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    note = "Set model_name_or_path, and template to that of your model."
    return [
        _yaml(folder / "train_exact.yaml", exact, f"Each task gives exactly its count. {note}"),
        _yaml(folder / "train_sampled.yaml", sampled, f"Tasks are sampled by weight from streams. {note}"),
        registry,
    ]


@exporter("axolotl", "mixture.jsonl and axolotl.yaml", needs_files=True)
def _axolotl(document: dict[str, Any], folder: Path, files: Files) -> list[Path]:
    [data] = _jsonl(document, folder, files)
    settings = {
        "datasets": [
            {
                "path": os.fspath(data.resolve()),
                "ds_type": "json",
                "type": {
                    "field_instruction": "prompt",
                    "field_output": "completion",
                    # The prompt as it stands: the completion brings its own leading space.
                    "format": "{instruction}",
                    "no_input_format": "{instruction}",
                },
            }
        ],
        "train_on_inputs": False,
        "adapter": "lora",
        "micro_batch_size": BATCH_SIZE,
        "num_epochs": 1,
        "output_dir": "output",
    }
    note = "Set base_model, sequence_len and the LoRA's shape, or merge this into your own file."
    return [_yaml(folder / "axolotl.yaml", settings, note), data]


@exporter("trl", "mixture.jsonl and sft.yaml for `trl sft --config`", needs_files=True)
def _trl(document: dict[str, Any], folder: Path, files: Files) -> list[Path]:
    [data] = _jsonl(document, folder, files)
    settings = {
        "datasets": [{"path": "json", "data_files": os.fspath(data.resolve()), "columns": ["prompt", "completion"]}],
        "completion_only_loss": True,
        "use_peft": True,
        "per_device_train_batch_size": BATCH_SIZE,
        "num_train_epochs": 1,
        "output_dir": "output",
    }
    return [_yaml(folder / "sft.yaml", settings, "Set model_name_or_path; then: trl sft --config sft.yaml"), data]


def _taken(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks that give examples: a sampler never comes to the end of a task of weight zero."""
    return [task for task in document["tasks"] if task["count"]]


def _probabilities(tasks: list[dict[str, Any]]) -> list[float]:
    total = math.fsum(task["weight"] for task in tasks)
    return [task["weight"] / total for task in tasks]


def _steps(document: dict[str, Any]) -> int:
    return -(-document["examples"] // BATCH_SIZE)


def _yaml(path: Path, settings: dict[str, Any], comment: str) -> Path:
    # Unlimited width: a long list of data sets stays one plain line.
    content = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=math.inf)
    path.write_text(f"# {comment}\n{content}", encoding="utf-8")
    return path
