"""The source ``files:``: local files and folders as tasks."""

from __future__ import annotations

import glob
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskpgm_ray.config import TaskSpec
from taskpgm_ray.errors import DataError
from taskpgm_ray.paths import local_content, looked_in
from taskpgm_ray.tasks.blocks import Block, draw
from taskpgm_ray.tasks.example import BadRow, Reading, few
from taskpgm_ray.tasks.formats import (
    COMPRESSED,
    SUFFIXES,
    blocks_of,
    is_lines,
    is_saved_data_set,
    suffix_of,
)
from taskpgm_ray.tasks.layouts import read_records
from taskpgm_ray.tasks.naming import Found, Group, files_under, grouped, stem_of, usable


@dataclass(frozen=True)
class Files:
    """A file, or several that are one data set, of any format in `taskpgm_ray.tasks.formats`."""

    name: str
    files: tuple[str, ...]
    spec: TaskSpec

    @property
    def shown(self) -> str:
        """Where it comes from, for a reader."""
        return self.files[0] + (f" and {len(self.files) - 1} more" if len(self.files) > 1 else "")

    @classmethod
    def expand(cls, spec: TaskSpec, target: str, notes: list[str]) -> list[Files]:
        """One task for a file, one per data set for a folder or glob; ``notes`` takes what was left out or renamed."""
        path = Path(target).expanduser()
        if path.is_dir() and not is_saved_data_set(path):
            found = grouped(files_under(path), path)
            if not found.groups:
                raise DataError(f"the folder {target!r} holds no file that is read: {_endings()}{_unread(found)}")
        elif path.exists():
            found = Found([_alone(path, spec)], [], [])
        elif matches := sorted(glob.glob(str(path), recursive=True)):
            files = [f for m in map(Path, matches) for f in (_inside(m) if m.is_dir() else [m])]
            # The folders above the first wildcard: what `**` finds is named as in a folder.
            root = Path(os.path.commonpath([str(file.parent) for file in files] or ["."]))
            found = grouped(dict.fromkeys(files), root)
            if not found.groups:
                raise DataError(f"{target!r} matches no file that is read: {_endings()}{_unread(found)}")
        else:
            raise DataError(
                f"there is no file or folder {target!r}{looked_in(target)} (pool.tasks source {spec.source}), "
                "and no file matches it as a glob"
            )
        if spec.name and len(found.groups) > 1:
            raise DataError(f"`name: {spec.name}` is for one task, but {target!r} holds {len(found.groups)} files")
        notes += _left_out(target, found)
        # Absolute: they are read in Ray workers, whose folder may be another one.
        return [
            cls(name, tuple(str(file.absolute()) for file in group.files), spec)
            for name, group in _named(found.groups, spec, notes)
        ]

    def identity(self) -> dict[str, Any]:
        """The files' content hash, the templates, and the layout and choice of answers where they are set."""
        try:
            # Studies that were finished with JSON lines only are found again by this form.
            first = self.files[0]
            plain = len(self.files) == 1 and not first.lower().endswith(COMPRESSED) and is_lines(Path(first))
            held = [local_content(file) for file in self.files]
        except OSError as error:
            raise DataError(f"task {self.name!r}: {self.files[0]} cannot be read: {error}") from error
        more = {"layout": self.spec.layout, "answers": self.spec.answers}
        return {
            **({"jsonl": held[0]} if plain else {"files": held}),
            "prompt": self.spec.prompt,
            "response": self.spec.response,
            **{key: value for key, value in more.items() if value is not None},
        }

    def read(self, limit: int, seed: int) -> Reading:
        """A uniform draw of ``limit`` rows, in the files' order; all of them where there are no more."""
        bad: list[BadRow] = []

        def blocks() -> Iterator[Block]:
            for file in self.files:
                try:
                    yield from blocks_of(Path(file), bad)
                except OSError as error:
                    raise DataError(f"task {self.name!r}: {file} cannot be read: {error}") from error

        records, size = draw(blocks(), limit, seed)
        if not size:
            whole = f" that are whole: {few(bad)}" if bad else ""
            raise DataError(f"task {self.name!r}: {self.shown} holds no rows{whole}")
        reading = read_records(records, size + len(bad), self.spec, seed)
        # Of a sample of the rows, as many of these as fall into it: their share is compared with that of the others.
        share = round(len(bad) * len(records) / size)
        reading.bad += bad if share == len(bad) else sorted(random.Random(seed).sample(bad, share), key=bad.index)
        return reading


def _alone(path: Path, spec: TaskSpec) -> Group:
    """A file that was named by itself: whatever it is called, it is read."""
    # Under its older name the source called a task as the file is, and finished studies hold these names.
    if spec.source.startswith("jsonl:") or path.is_dir():
        known = path.is_dir() or suffix_of(path)
        return Group(stem_of(path) if known else path.stem, path.parent, [path])
    (group,) = grouped([path], path.parent.parent).groups or [Group(stem_of(path), path.parent, [path])]
    return group


def _inside(folder: Path) -> list[Path]:
    return [folder] if is_saved_data_set(folder) else files_under(folder)


def _named(groups: list[Group], spec: TaskSpec, notes: list[str]) -> Iterator[tuple[str, Group]]:
    """Groups with their tasks' names: as the files are called, with the folders where that is not enough."""
    plain = Counter(usable(group.stem) for group in groups)
    common = os.path.commonpath([str(group.folder) for group in groups])
    for group in groups:
        own = group.stem
        if plain[usable(own)] > 1 and str(group.folder) != common:
            own = "-".join([*Path(os.path.relpath(group.folder, common)).parts, own])
        name = spec.name or usable(own)
        if not spec.name and name != group.stem:
            notes.append(f"{group.files[0]} is the task {name}")
        yield name, group


def _left_out(target: str, found: Found) -> list[str]:
    """What of a folder is not read, with its number."""
    notes = []
    for files, why in (
        (found.other_splits, "validation or test files"),
        (found.unread, "files of no format that is read"),
    ):
        if files:
            few = ", ".join(file.name for file in files[:3]) + (", …" if len(files) > 3 else "")
            notes.append(f"{target}: {len(files)} {why} left out ({few})")
    return notes


def _unread(found: Found) -> str:
    return f"; it has {', '.join(file.name for file in found.unread[:5])}" if found.unread else ""


def _endings() -> str:
    return f"{', '.join(SUFFIXES)} (each also {', '.join(COMPRESSED)}), or a folder of `save_to_disk`"
