"""Temporary folders that name the process they belong to: the next start removes those of killed processes."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

BASE = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
"""As Ray's own default: the paths of its sockets must be short, which the system's temporary folder may not be."""
MARK = "TASKPGM_SCRATCH"
"""Environment variable of the processes that work in a folder."""
_NAME = re.compile(r"taskpgm-[a-z]+-(\d+)-\w+")
GONE_SECONDS = 5.0
"""How long a process may take to end by itself."""


def new_folder(kind: str) -> Path:
    """The path of a folder of this process that does not exist yet."""
    return BASE / f"taskpgm-{kind}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


@contextmanager
def temporary(kind: str) -> Iterator[Path]:
    """A folder that is removed at the end."""
    folder = new_folder(kind)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Processes that are started in the body work in the folder, and end with it."""
    os.environ[MARK] = str(folder)
    try:
        yield
    finally:
        del os.environ[MARK]


def kill(folder: Path) -> None:
    """End the processes that work in a folder, now, and remove it."""
    for process in _working_in(folder):
        with suppress(psutil.Error):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def remove(folder: Path) -> None:
    """End the processes that work in a folder, if they do not by themselves, and remove it."""
    # Now and then a worker of Ray hangs after its last line, and whoever would have killed it is gone by then.
    _, left = psutil.wait_procs(_working_in(folder), timeout=GONE_SECONDS)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=GONE_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove this user's folders whose process is gone, and what still works in them."""
    for folder in BASE.glob("taskpgm-*"):
        named = _NAME.fullmatch(folder.name)
        if named and not psutil.pid_exists(int(named[1])):
            # Those of other users cannot be removed, and need not be.
            remove(folder)


def _working_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        # Of other users' processes nothing can be read, and a process may end while it is looked at.
        with suppress(psutil.Error):
            if process.pid != os.getpid() and _works_in(process, str(folder)):
                found.append(process)
    return found


def _works_in(process: psutil.Process, folder: str) -> bool:
    if process.environ().get(MARK) == folder:
        return True
    # Some of Ray's daemons write their title over their environment; they have their logs open.
    titled = "".join(process.cmdline()[:1]).startswith("ray::")
    return titled and any(file.path.startswith(f"{folder}/") for file in process.open_files())
