"""Artifacts: a folder on any pyarrow filesystem, fingerprints, and units whose manifest is written last.

A *unit* is one piece of finished work (a prepared task, an adapter, an adapter's scores on one segment, a trial). Its
folder is named by the fingerprint of everything it depends on, and its ``manifest.json`` is written after all its
other files: a unit with a manifest is finished, a unit without one is to be done (again).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs as pafs
from pydantic import BaseModel

from taskpgm_ray.errors import DamagedFileError, MissingFileError, OutageError, StorageError
from taskpgm_ray.filesystems import LOCAL, NO_MARKERS, opened, sync, uninterrupted
from taskpgm_ray.paths import without_options

MANIFEST = "manifest.json"
RETRY_SECONDS = (0.2, 1.0, 5.0)
"""Pauses before an operation that failed is tried again: throttling and network faults pass by themselves."""
OUTAGE_SECONDS = (10.0, 20.0, 40.0, 60.0)
"""Further pauses where the storage has answered this process before: not a wrong address, then, but an outage."""
PARTIAL = ".partial"
"""End of the names of local files that are being written."""
ABANDONED_SECONDS = 600.0
"""A file that nobody has written to for so long is nobody's; a write takes seconds."""
WRONG_PLACE = (NotADirectoryError, IsADirectoryError, FileExistsError)
LASTING = (PermissionError, *WRONG_PLACE)
"""Errors that a pause does not mend; credentials that have expired may be renewed."""

SIDE_BY_SIDE = 32
"""Requests that a process has under way at once."""

T = TypeVar("T")
_buckets: set[tuple[str, str]] = set()
"""Those that exist since a write of this process: name and options of the filesystem."""
_answered: set[str] = set()
"""Storages (scheme and host) that have answered this process."""
_listeners: list[Callable[[str], None]] = []
_log = logging.getLogger(__name__)


def on_outage(listener: Callable[[str], None]) -> None:
    """Have ``listener`` told by a line whenever an operation of this process waits for a storage that does not answer.

    Without listeners the line is a warning in the log.
    """
    _listeners.append(listener)


def fingerprint(*parts: Any) -> str:
    """16 hex digits that name everything in ``parts`` (JSON values, pydantic models, nested)."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"cannot fingerprint a {type(value).__name__}")


@dataclass(frozen=True)
class Storage:
    """A folder on a local disk, S3, GCS or any other pyarrow filesystem. Cheap to pickle: it is only its URI."""

    uri: str
    """Local path or ``scheme://...`` URI of the folder."""
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A relative path means the folder beside the user, not one beside whatever worker reads it.
        if "://" not in self.uri:
            object.__setattr__(self, "uri", os.path.abspath(os.path.expanduser(self.uri)))

    def __reduce__(self) -> Any:
        return Storage, (self.uri,)

    def __truediv__(self, relative: str) -> Storage:
        base, options = without_options(self.uri)
        return Storage(f"{base.rstrip('/')}/{_checked(relative)}{options}")

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a filesystem that this machine mounts."""
        return self._filesystem[0].type_name == "local"

    @property
    def _filesystem(self) -> tuple[pafs.FileSystem, str]:
        if "fs" not in self._cache:
            try:
                self._cache["fs"] = opened(self.uri) if "://" in self.uri else (LOCAL, self.uri)
            except (pa.ArrowInvalid, OSError, ValueError) as error:
                raise StorageError(f"storage {self.uri!r} cannot be opened: {error}") from error
        return self._cache["fs"]

    @property
    def _manifests(self) -> dict[str, bytes]:
        """Contents of manifests that were read, by their paths: a finished unit does not change while a study runs."""
        return self._cache.setdefault("manifests", {})

    def forget(self) -> None:
        """Read every manifest anew from now on; a user may have removed units since."""
        self._manifests.clear()

    def path(self, relative: str = "") -> str:
        """The path of ``relative`` inside the filesystem (for local storage: on this machine)."""
        base = self._filesystem[1].rstrip("/")
        return f"{base}/{_checked(relative)}" if relative else base

    def exists(self, relative: str) -> bool:
        """Whether a file or folder of this name is there."""
        return self._kind(relative) != pafs.FileType.NotFound

    def read_bytes(self, relative: str) -> bytes:
        """The content of one file."""

        def read() -> bytes:
            with self._filesystem[0].open_input_stream(self.path(relative), compression=None) as stream:
                return stream.read()

        return self._attempt(read, relative, "read")

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Write one file atomically: readers see the old content, or all of the new."""
        filesystem, target = self._filesystem[0], self.path(relative)
        # Object stores publish an object when its upload completes; a local file needs the rename.
        written = f"{target}.{uuid.uuid4().hex[:8]}{PARTIAL}" if self.is_local else target

        def write() -> None:
            # Markers for folders would be more requests than the object itself, and other prefixes' business.
            if filesystem.type_name not in NO_MARKERS:
                filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            elif "allow_bucket_creation=true" in self.uri:
                # The same name at another endpoint is another bucket.
                bucket = (target.partition("/")[0], self.uri.partition("?")[2])
                if bucket not in _buckets:
                    filesystem.create_dir(bucket[0], recursive=False)
                    _buckets.add(bucket)
            with filesystem.open_output_stream(written, compression=None) as stream:
                stream.write(content)

        def write_and_rename() -> None:
            try:
                write()
                sync(written)
                filesystem.move(written, target)
            except BaseException:
                Path(written).unlink(missing_ok=True)
                raise

        self._attempt(write_and_rename if self.is_local else lambda: uninterrupted(write), relative, "written")

    def append_bytes(self, relative: str, content: bytes) -> None:
        """Add to the end of a file; on an object store, which cannot append, the file is written anew."""
        if not self.is_local:
            old = self.read_bytes(relative) if self.exists(relative) else b""
            self.write_bytes(relative, old + content)
            return
        self._attempt(lambda: self._append_locally(self.path(relative), content), relative, "written")

    def _append_locally(self, path: str, content: bytes) -> None:
        self._filesystem[0].create_dir(path.rpartition("/")[0], recursive=True)
        with self._filesystem[0].open_append_stream(path, compression=None) as stream:
            stream.write(content)

    def _kind(self, relative: str) -> pafs.FileType:
        return self._attempt(lambda: self._filesystem[0].get_file_info(self.path(relative)), relative, "read").type

    def _attempt(self, operation: Callable[[], T], relative: str, what: str) -> T:
        """Run one filesystem operation; what may pass by itself is tried again after a pause."""
        place = "/".join(self.uri.split("/")[:3]) if "://" in self.uri else "/"
        for pause in (*RETRY_SECONDS, *(OUTAGE_SECONDS if place in _answered else ()), None):
            try:
                found = operation()
            except FileNotFoundError:
                raise MissingFileError(f"{self.uri}/{relative} is missing") from None
            except OSError as error:
                if pause is None or isinstance(error, LASTING):
                    kind = StorageError if isinstance(error, WRONG_PLACE) else OutageError
                    raise kind(f"{self.uri}/{relative} cannot be {what}: {error}") from error
                if pause in OUTAGE_SECONDS:
                    line = f"{self.uri}/{relative} cannot be {what} ({error}); again in {pause:.0f} s"
                    for listener in _listeners or [_log.warning]:
                        listener(line)
                time.sleep(pause)
            else:
                _answered.add(place)
                return found
        raise AssertionError("the last attempt returns or raises")

    def read_json(self, relative: str) -> Any:
        """The content of one JSON file."""
        return self._json(relative, self.read_bytes(relative))

    def read_manifest(self, relative: str) -> Any:
        """The content of a finished unit's manifest, read once."""
        content = self._manifests.get(relative) or self.read_bytes(relative)
        manifest = self._json(relative, content)
        self._manifests[relative] = content
        return manifest

    def write_manifest(self, relative: str, manifest: Any) -> None:
        """Write a unit's manifest."""
        self._manifests.pop(relative, None)
        self.write_json(relative, manifest)

    def _json(self, relative: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            problem = f"{self.uri}/{relative} is damaged (not JSON): {error}; remove it to redo it"
            raise DamagedFileError(problem) from error

    def write_json(self, relative: str, value: Any) -> None:
        """Write one JSON file atomically."""
        self.write_bytes(relative, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_table(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """The content of one Parquet file."""
        import pyarrow.parquet as pq

        # Read first and decoded then: of an error while decoding it is known that the storage is not to blame.
        content = self.read_bytes(relative)
        try:
            return pq.read_table(pa.BufferReader(content), columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            problem = f"{self.uri}/{relative} is damaged: {error}; remove its folder to redo it"
            raise DamagedFileError(problem) from error

    def write_table(self, relative: str, table: pa.Table, **options: Any) -> None:
        """Write one Parquet file atomically (zstd); options as of ``pyarrow.parquet.write_table``."""
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", **options)
        self.write_bytes(relative, sink.getvalue().to_pybytes())

    def read_rows(self, relative: str, rows: slice) -> pa.Table:
        """Some rows of one Parquet file: only the row groups that hold them are read. Fewer where the file ends."""
        try:
            with self._filesystem[0].open_input_file(self.path(relative)) as source:
                return _rows_of(source, rows)
        except FileNotFoundError:
            raise MissingFileError(f"{self.uri}/{relative} is missing") from None
        except (pa.ArrowInvalid, OSError):
            # A damaged file, or a storage that fails in the middle of it: read whole, which waits for the storage.
            content = self.read_bytes(relative)
        try:
            return _rows_of(pa.BufferReader(content), rows)
        except (pa.ArrowInvalid, OSError) as error:
            problem = f"{self.uri}/{relative} is damaged: {error}; remove its folder to redo it"
            raise DamagedFileError(problem) from error

    def names(self, relative: str = "") -> list[str]:
        """Sorted names of the entries of a folder; empty when there is no such folder."""
        selector = pafs.FileSelector(self.path(relative), allow_not_found=True)
        listing = self._attempt(lambda: self._filesystem[0].get_file_info(selector), relative, "listed")
        return sorted(info.base_name for info in listing)

    def sizes(self) -> dict[str, int]:
        """Every file below this folder and its size in bytes, by its path in the folder; one listing."""
        filesystem, _ = self._filesystem
        base = self.path().rstrip("/") + "/"
        selector = pafs.FileSelector(self.path(), recursive=True, allow_not_found=True)
        listing = self._attempt(lambda: filesystem.get_file_info(selector), "", "listed")
        return {info.path.removeprefix(base): info.size for info in listing if info.is_file}

    def delete(self, relative: str) -> None:
        """Remove one folder with all that is in it, if it is there."""
        for known in [path for path in self._manifests if path.startswith(f"{relative}/")]:
            del self._manifests[known]
        if self.exists(relative):
            self._attempt(lambda: self._filesystem[0].delete_dir(self.path(relative)), relative, "removed")

    def delete_file(self, relative: str) -> None:
        """Remove one file, if it is there."""
        if self.exists(relative):
            self._attempt(lambda: self._filesystem[0].delete_file(self.path(relative)), relative, "removed")

    def upload(self, folder: str | Path, relative: str, before: Callable[[], None] = lambda: None) -> None:
        """Copy every file of a local folder (not its subfolders) to ``relative``; ``before`` each one call that."""
        for file in sorted(Path(folder).iterdir()):
            if file.is_file():
                before()
                self.write_bytes(f"{relative}/{file.name}", file.read_bytes())

    def local_copy(self, relative: str) -> Path:
        """A local folder with the files of ``relative``: the folder itself on local storage, else a cached copy."""
        if self.is_local:
            return Path(self.path(relative))
        target = Path(tempfile.gettempdir()) / "taskpgm-cache" / fingerprint(self.uri) / relative
        if not target.exists():
            partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.partial")
            partial.mkdir(parents=True)
            for name in self.names(relative):
                (partial / name).write_bytes(self.read_bytes(f"{relative}/{name}"))
            try:
                partial.rename(target)
            except OSError:
                # Another process of this node finished the same copy first; the files are equal.
                if not target.exists():
                    raise
        return target

    def check_writable(self) -> None:
        """Raise a `StorageError` now, rather than after hours of work, when nothing can be written here."""
        self._drop_partial()
        probe = f".writable-{uuid.uuid4().hex[:8]}"
        self.write_bytes(probe, b"")
        self.delete_file(probe)

    def _drop_partial(self) -> None:
        """Remove what processes that were killed had begun to write; what is younger may be another driver's."""
        if self.is_local:
            for file in Path(self.path()).rglob(f"*{PARTIAL}"):
                if file.exists() and time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                    file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Unit:
    """One piece of work in its own folder of the study; finished once its manifest is there."""

    storage: Storage
    path: str
    """Folder of the unit relative to the study, for example ``adapters/boolq-1f0c...``."""

    @property
    def files(self) -> Storage:
        """The unit's folder as a storage."""
        return self.storage / self.path

    def done(self) -> bool:
        """Whether the unit is finished; one whose manifest cannot be read is not."""
        try:
            self.manifest()
        except (MissingFileError, DamagedFileError):
            return False
        return True

    def manifest(self) -> dict[str, Any]:
        """What was recorded when the unit was finished."""
        return self.storage.read_manifest(f"{self.path}/{MANIFEST}")

    def finish(self, manifest: dict[str, Any]) -> None:
        """Mark the unit as finished. Call it after all its files are written, never before."""
        self.storage.write_manifest(f"{self.path}/{MANIFEST}", manifest)


def finished(units: Sequence[Unit]) -> list[bool]:
    """Whether each unit is finished; as `Unit.done`, but an object store is asked side by side.

    Folders are listed first, so that units that nobody has begun cost nothing.
    """
    if not units or units[0].storage.is_local:
        return [unit.done() for unit in units]
    storage = units[0].storage
    places = [unit.path.rpartition("/") for unit in units]
    folders = sorted({folder for folder, _, _ in places})
    # Daemon threads: an interrupt does not wait for a storage that does not answer.
    with ThreadPool(SIDE_BY_SIDE) as threads:
        held = dict(zip(folders, map(set, threads.map(storage.names, folders)), strict=True))
        begun = [name in held[folder] for folder, _, name in places]
        return threads.starmap(lambda unit, begun: begun and unit.done(), zip(units, begun, strict=True), chunksize=1)


def _rows_of(source: Any, rows: slice) -> pa.Table:
    """Some rows of an open Parquet file, from the row groups that hold them."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(source)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    held = [i for i, at in enumerate(starts) if at < rows.stop and at + sizes[i] > rows.start]
    table = file.read_row_groups(held)
    return table.slice(rows.start - starts[held[0]], rows.stop - rows.start) if held else table


def _checked(relative: str) -> str:
    """Refuse names that would leave the study's folder."""
    if relative.startswith("/") or ".." in relative.split("/"):
        raise StorageError(f"{relative!r} would leave the study's folder")
    return relative
