"""What fine-tunes made, on an engine's node: fetched ahead into a bounded cache, and checked before it is used."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from taskpgm_ray.runtime import scratch
from taskpgm_ray.storage import Unit


class Folders(ABC):
    """Local folders of checked adapters or models; one engine's. Of a storage on a mounted disk nothing is copied."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._folders: OrderedDict[str, Future[Path]] = OrderedDict()
        self._fetcher = ThreadPoolExecutor(1, "adapters")
        self._root: Path | None = None

    @abstractmethod
    def _files(self, unit: Unit) -> Iterable[str]:
        """The files that an engine reads."""

    @abstractmethod
    def _check(self, folder: Path, name: str) -> None:
        """Raise `ModelError` where they are not what this study's fine-tunes make."""

    def fetch(self, units: Sequence[Unit]) -> None:
        """Start to fetch and check these; the oldest ones leave when there are too many."""
        for unit in units:
            name = name_of(unit)
            if name not in self._folders:
                self._folders[name] = self._fetcher.submit(self._fetched, unit)
            self._folders.move_to_end(name)
        while len(self._folders) > self._most:
            _, oldest = self._folders.popitem(last=False)
            # In the fetcher's thread: after whatever it is still to fetch into this folder.
            self._fetcher.submit(self._drop, oldest)

    def folder(self, unit: Unit) -> Path:
        """The unit's folder on this node.

        Raises:
            ModelError: Files are missing or damaged, or of another base model, rank or kind.
            StorageError: The storage cannot be read.
        """
        self.fetch([unit])
        try:
            return self._folders[name_of(unit)].result()
        except BaseException:
            # What failed for a reason that passes (the network) is fetched again when it is asked for again.
            del self._folders[name_of(unit)]
            raise

    def _fetched(self, unit: Unit) -> Path:
        if unit.storage.is_local:
            folder = Path(unit.storage.path(unit.path))
        else:
            self._root = self._root or scratch.new_folder("adapters")
            folder = self._root / unit.path
            folder.mkdir(parents=True, exist_ok=True)
            for file in self._files(unit):
                (folder / file).write_bytes(unit.files.read_bytes(file))
        self._check(folder, unit.path)
        return folder

    def _drop(self, fetched: Future[Path]) -> None:
        if self._root is not None and fetched.exception() is None:
            shutil.rmtree(fetched.result())


def name_of(unit: Unit) -> str:
    """A name that stands for one fine-tune only: its path ends with the fingerprint of all that it depends on."""
    return f"{unit.storage.uri}/{unit.path}"
