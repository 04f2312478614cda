"""pyarrow filesystems by URI: one, with its connections, for each place that a process reads and writes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from pyarrow import fs as pafs

NO_MARKERS = ("s3",)
"""pyarrow's names of filesystems whose folders are listed and removed although nothing marks them; that of Google's
storage lists none that has no marker."""
LOCAL = pafs.LocalFileSystem()

_made: dict[tuple[str, str, str], tuple[pafs.FileSystem, str]] = {}
"""With their roots, by scheme, host and options."""
_making = threading.Lock()

T = TypeVar("T")


def opened(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of ``scheme://host/path?options``, and the path inside it.

    Raises:
        pyarrow.ArrowInvalid, OSError, ValueError: Not such a URI, or no such place.
    """
    scheme, _, rest = uri.partition("://")
    rest, _, options = rest.partition("?")
    host, slash, path = rest.partition("/")
    with _making:
        place = (scheme, host, options)
        if place not in _made:
            # A small object is then one request, and not the three of an upload in parts.
            delayed = "allow_delayed_open=true" if scheme == "s3" and "allow_delayed_open" not in options else ""
            query = "&".join(filter(None, (options, delayed)))
            _made[place] = pafs.FileSystem.from_uri(f"{scheme}://{host}{slash}" + (f"?{query}" if query else ""))
        filesystem, root = _made[place]
    return filesystem, f"{root.rstrip('/')}/{path}" if root.strip("/") and path else f"{root}{path}"


def sync(path: str) -> None:
    """Have a file on the disk before its name is: after a power cut a manifest must not stand beside empty files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def uninterrupted(operation: Callable[[], T]) -> T:
    """Run it in a thread of its own: an upload that an interrupt leaves half-way would be completed as it is.

    Whenever the interrupt comes, the operation has either ended or not begun when this ends.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        if outcome.set_running_or_notify_cancel():
            try:
                outcome.set_result(operation())
            except BaseException as error:  # raised below, where it was asked for
                outcome.set_exception(error)

    try:
        threading.Thread(target=run, name="upload").start()
        return outcome.result()
    except BaseException:
        if not outcome.cancel():
            wait([outcome])
        raise
