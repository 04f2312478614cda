"""Temporary folders that name the process they belong to: the next start removes those of killed processes."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BASE = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
"""As Ray's own default: the paths of its sockets must be short, which the system's temporary folder may not be."""
_NAME = re.compile(r"taskpgm-[a-z]+-(\d+)-\w+")
GONE_SECONDS = 5.0


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


def remove(folder: Path) -> None:
    """Remove a folder into which processes that are about to end may still write."""
    deadline = time.monotonic() + GONE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def remove_abandoned() -> None:
    """Remove this user's folders whose process is gone."""
    for folder in BASE.glob("taskpgm-*"):
        named = _NAME.fullmatch(folder.name)
        if named and not _exists(int(named[1])):
            # Those of other users cannot be removed, and need not be.
            shutil.rmtree(folder, ignore_errors=True)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
