"""Which files are one task, and what it is called.

``gsm8k/train.jsonl`` is the task ``gsm8k``, ``boolq.csv`` the task ``boolq``, and shards are one task. Of the files of
one task that are called train, valid and test, or lie in folders of these names, the first is read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from taskpgm_ray.storage import fingerprint
from taskpgm_ray.tasks.formats import COMPRESSED, SUFFIXES, is_saved_data_set, suffix_of

_TRAIN = ("train", "training")
_OTHER = ("valid", "validation", "val", "dev", "test", "testing", "eval", "evaluation", "heldout")
# Older data sets of the hub have a hash behind the number of a shard.
_SHARD = re.compile(r"^(?:(.*?)[-_.])?\d+[-_.]of[-_.]\d+(?:-[0-9a-f]{16})?$")
_METADATA = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
"""What ``datasets`` writes beside data."""
_ENDS = re.compile(rf"^(.+?)[-_.]({'|'.join(_TRAIN + _OTHER)})$", re.IGNORECASE)


@dataclass
class Group:
    """The files of one task."""

    stem: str
    """What the files call it; the task's name follows from it."""
    folder: Path
    files: list[Path] = field(default_factory=list)


@dataclass
class Found:
    """What a folder or glob holds."""

    groups: list[Group]
    other_splits: list[Path]
    """Validation and test files of tasks that have a training file: not read."""
    unread: list[Path]
    """Files of no format that is read."""


def stem_of(file: Path) -> str:
    """A file's name without the endings of format and compression."""
    name = file.name
    for endings in (COMPRESSED, tuple(SUFFIXES)):
        for ending in endings:
            if name.lower().endswith(ending):
                name = name[: -len(ending)]
    return name or file.name


def usable(name: str) -> str:
    """A task name out of any text: letters, digits, dots, dashes and underscores, at most 100."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:100].rstrip("-._") if plain.strip("-._ ") else ""
    return made or f"task-{fingerprint(name)[:8]}"


def files_under(root: Path) -> list[Path]:
    """Every file below a folder, and every folder that ``datasets`` saved in place of its files; hidden ones not."""
    found = []
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not is_saved_data_set(path):
            found += files_under(path)
        else:
            found.append(path)
    return found


def grouped(files: Iterable[Path], root: Path) -> Found:
    """Files as tasks, in the order of their names.

    Args:
        files: As of `files_under`.
        root: Folder that they were found in; the task of ``<root>/train.jsonl`` is called as the folder is.
    """
    found = Found([], [], [])
    held: dict[tuple[Path, str], dict[str, list[Group]]] = {}
    for file in files:
        if file.name in _METADATA or not (suffix_of(file) or is_saved_data_set(file)):
            found.unread.append(file)
            continue
        place = _place(file, root)
        groups = held.setdefault(place.task, {}).setdefault(place.split, [])
        # Shards are one set. Two files of one name (x.csv, x.csv.gz) are not: their tasks will clash, and be refused.
        if place.shard and groups and suffix_of(groups[0].files[0]) == suffix_of(file):
            groups[0].files.append(file)
        else:
            groups.append(Group(place.stem, place.folder, [file]))
    for splits in held.values():
        for split, groups in splits.items():
            # Without a training file a split may be all that there is.
            if split in ("", "train") or not splits.keys() & {"", "train"}:
                found.groups += groups
            else:
                found.other_splits += [file for group in groups for file in group.files]
    found.groups.sort(key=lambda group: group.files[0])
    return found


@dataclass(frozen=True)
class _Place:
    task: tuple[Path, str]
    """Folder and name that all splits of its task share."""
    split: str
    """``train``, another split by its own name, or nothing."""
    folder: Path
    stem: str
    """What it is called where it is read: a split other than ``train`` only where there is no training file."""
    shard: bool


def _place(file: Path, root: Path) -> _Place:
    """Which task a file belongs to, and which part of it."""
    folder, stem = file.parent, stem_of(file)
    shard = _SHARD.match(stem)
    if shard or (stem.isdecimal() and _split(folder.name)):
        stem = (shard[1] if shard else "") or ""
        if stem in ("", "data", "part"):
            folder, stem = folder.parent, folder.name
    is_shard = stem != stem_of(file)
    above = _split(folder.name) if folder != root else ""
    home = folder.parent if above else folder
    if split := _split(stem):
        # The hub's folders have their files one deeper: <data set>/data/train-00000-of-00001.parquet.
        task = folder.parent if folder.name == "data" and folder != root else folder
        home = home if above else task
        return _Place((home.parent, home.name), split, task.parent, _called(task.name, split), is_shard)
    if ends := _ENDS.match(stem):
        split = _split(ends[2])
        return _Place((home, ends[1]), split, folder, _called(ends[1], split), is_shard)
    return _Place((home, stem), above, folder, stem, is_shard)


def _called(task: str, split: str) -> str:
    return task if split == "train" else f"{task}-{split}"


def _split(word: str) -> str:
    """The split that a word means, or nothing."""
    word = word.lower()
    return "train" if word in _TRAIN else word if word in _OTHER else ""
