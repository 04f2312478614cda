"""One driver per study: a small file in the study's folder that the driver renews while it works."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from taskpgm_ray.errors import DamagedFileError, StorageError, StudyBusyError
from taskpgm_ray.storage import Storage

_log = logging.getLogger(__name__)

FILE = "driver.json"
RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A lease that was not renewed for so long belongs to a driver that is gone."""
INTERRUPT = signal.SIGUSR2
"""Interrupts a driver that was replaced. Not Ctrl-C's signal, which a shell's background jobs ignore."""
SETTLE_SECONDS = 0.3
"""Two drivers that start at the same moment both write; after this pause both see whose file stayed."""


@contextmanager
def sole_driver(storage: Storage) -> Iterator[None]:
    """Hold the study's lease while the body runs.

    A lease whose driver is gone (not renewed for a minute, or its process on this machine has ended) is taken over.
    Results cannot be corrupted by a second driver, since every unit is deterministic and written atomically; the
    lease keeps the two from doing the same work twice.

    Raises:
        StudyBusyError: Another driver holds the lease, or took it over in the meantime because this one was cut off.
    """
    lease = _Lease(storage)
    lease.acquire()
    try:
        yield
    except BaseException as error:  # the interrupt, or what a library made of it
        if lease.taken_by is None:
            raise
        raise StudyBusyError(
            f"this driver could not renew its lease, and {_name(lease.taken_by)} took the study over; "
            "finished work is kept, the other driver goes on from it"
        ) from error
    finally:
        lease.release()


class _Lease:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.mine = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self.taken_by: dict[str, Any] | None = None
        # Only the main thread gets signals; a driver in another one goes on to its end and harms nothing.
        self.driver = threading.get_ident() if threading.current_thread() is threading.main_thread() else None
        self.ended = threading.Event()
        self.handler: Any = None
        self.thread = threading.Thread(target=self._renew, daemon=True, name="study-lease")

    def acquire(self) -> None:
        holder = self._holder()
        if holder is not None and not _gone(holder):
            self._refuse(holder)
        self._write()
        time.sleep(SETTLE_SECONDS)
        holder = self._holder()
        if holder is not None and holder["id"] != self.mine["id"]:
            self._refuse(holder)
        if self.driver is not None:
            # Ray hands on no exception from a signal's handler but KeyboardInterrupt.
            self.handler = signal.signal(INTERRUPT, signal.default_int_handler)
        self.thread.start()

    def release(self) -> None:
        self.ended.set()
        self.thread.join()
        if self.driver is not None:
            signal.signal(INTERRUPT, signal.SIG_DFL if self.handler is None else self.handler)
        holder = self._holder()
        if holder is not None and holder["id"] == self.mine["id"]:
            self.storage.delete_file(FILE)

    def _renew(self) -> None:
        while not self.ended.wait(RENEW_SECONDS):
            try:
                holder = self._holder()
                if holder is not None and holder["id"] != self.mine["id"]:
                    self.taken_by = holder
                    if self.driver is not None:
                        # The driver may be waiting for Ray; a signal reaches it there.
                        signal.pthread_kill(self.driver, INTERRUPT)
                    return
                self._write()
            except StorageError:
                # The work itself meets the same storage and reports it; a lease that stays unrenewed is only stale.
                continue

    def _holder(self) -> dict[str, Any] | None:
        try:
            return self.storage.read_json(FILE) if self.storage.exists(FILE) else None
        except DamagedFileError as error:
            # What nobody can read belongs to nobody.
            _log.warning("%s; the lease is taken as free", error)
            return None

    def _write(self) -> None:
        self.storage.write_json(FILE, self.mine | {"renewed": time.time()})

    def _refuse(self, holder: dict[str, Any]) -> None:
        age = time.time() - holder["renewed"]
        raise StudyBusyError(
            f"{_name(holder)} works on the study {self.storage.uri!r} (last sign of life {age:.0f} s ago); "
            f"wait for it, or end it; if it is gone, its lease is free in {max(0.0, STALE_SECONDS - age):.0f} s"
        )


def _gone(holder: dict[str, Any]) -> bool:
    """Whether the driver that wrote this lease is not there any more."""
    if time.time() - holder["renewed"] > STALE_SECONDS:
        return True
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _name(holder: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"another driver (process {holder['pid']} on {holder['host']}, since {since})"
