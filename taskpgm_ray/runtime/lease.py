"""One driver per study: a small file in the study's folder that the driver renews while it works."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import DamagedFileError, StorageError, StudyBusyError
from taskpgm_ray.storage import Storage

_log = logging.getLogger(__name__)

FILE = "driver.json"
RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A lease that was not renewed for so long belongs to a driver that is gone."""
LOOK_SECONDS = 1.0
"""How often a lease is looked at while it is watched."""
INTERRUPT = signal.SIGUSR2
"""Interrupts a driver that was replaced. Not Ctrl-C's signal, which a shell's background jobs ignore."""
SETTLE_SECONDS = 0.3
"""Two drivers that start at the same moment both write; after this pause both see whose file stayed."""


@contextmanager
def sole_driver(storage: Storage, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the study's lease while the body runs.

    A lease whose driver is gone is taken over. On this machine its process tells; of another machine, whose clock may
    be off, the lease is watched: a driver that lives renews it. Results cannot be corrupted by a second driver, since
    every unit is deterministic and written atomically; the lease keeps the two from doing the same work twice.

    Args:
        storage: The study's folder.
        say: Is told what is waited for.

    Raises:
        StudyBusyError: Another driver holds the lease, or took it over in the meantime because this one was cut off.
    """
    lease = _Lease(storage)
    lease.acquire(say)
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


def current_driver(storage: Storage) -> tuple[str, bool | None] | None:
    """Who holds the study's lease, and whether that process lives (``None``: it is on another machine, out of sight).

    Returns:
        ``None`` when nobody does.
    """
    holder = _holder(storage)
    if holder is None:
        return None
    alive = _alive(holder)
    if alive is None and time.time() - holder["renewed"] > STALE_SECONDS:
        alive = False
    return _process(holder), alive


class _Lease:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.mine = {"id": uuid.uuid4().hex, "since": time.time()} | _this_process()
        self.taken_by: dict[str, Any] | None = None
        # Only the main thread gets signals; a driver in another one goes on to its end and harms nothing.
        self.driver = threading.get_ident() if threading.current_thread() is threading.main_thread() else None
        self.ended = threading.Event()
        self.handler: Any = None
        self.thread = threading.Thread(target=self._renew, daemon=True, name="study-lease")

    def acquire(self, say: Callable[[str], None]) -> None:
        holder = _holder(self.storage)
        if holder is not None:
            alive = _alive(holder)
            if alive or (alive is None and self._renewed(holder, say)):
                self._refuse(holder)
        self._write()
        time.sleep(SETTLE_SECONDS)
        holder = _holder(self.storage)
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
        holder = _holder(self.storage)
        if holder is not None and holder["id"] == self.mine["id"]:
            self.storage.delete_file(FILE)

    def _renew(self) -> None:
        while not self.ended.wait(RENEW_SECONDS):
            try:
                holder = _holder(self.storage)
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

    def _renewed(self, holder: dict[str, Any], say: Callable[[str], None]) -> bool:
        """Watch a lease of a process that cannot be asked: whether it changes, by no clock but this one."""
        # One that looks stale is so unless its clock is off; then it is renewed while one looks.
        patience = 2 * RENEW_SECONDS if time.time() - holder["renewed"] > STALE_SECONDS else STALE_SECONDS
        say(f"{_name(holder)} may work on this study; looking for {patience:.0f} s whether it renews its lease")
        until = time.monotonic() + patience
        while time.monotonic() < until:
            time.sleep(min(LOOK_SECONDS, RENEW_SECONDS))
            now = _holder(self.storage)
            if now is None:
                return False
            if (now["id"], now["renewed"]) != (holder["id"], holder["renewed"]):
                return True
        return False

    def _write(self) -> None:
        self.storage.write_json(FILE, self.mine | {"renewed": time.time()})

    def _refuse(self, holder: dict[str, Any]) -> None:
        raise StudyBusyError(
            f"{_name(holder)} works on the study {self.storage.uri!r}; wait for it, or end it: what it has finished is "
            "kept, and this command goes on from it"
        )


def _holder(storage: Storage) -> dict[str, Any] | None:
    """Who holds the lease, by its file."""
    try:
        return storage.read_json(FILE) if storage.exists(FILE) else None
    except DamagedFileError as error:
        # What nobody can read belongs to nobody.
        _log.warning("%s; the lease is taken as free", error)
        return None


def _this_process() -> dict[str, Any]:
    """What tells this process from all others, those before and after it with the same number included."""
    return {"host": socket.gethostname(), "pid": os.getpid()} | _of_kernel(os.getpid())


def _of_kernel(pid: int) -> dict[str, Any]:
    """The namespace that gives ``pid`` its meaning, and when the process began; nothing where the system has no /proc.

    Raises:
        ProcessLookupError: There is no such process.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return {}
    try:
        # The name in the second field may hold anything; the time is the 20th field behind it.
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    return {"namespace": f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}", "began": int(began)}


def _alive(holder: dict[str, Any]) -> bool | None:
    """Whether the driver that wrote this lease lives; ``None`` where it runs out of sight, on another machine."""
    mine = _this_process()
    if holder.get("namespace") != mine.get("namespace") or holder["host"] != mine["host"]:
        return None
    try:
        if "began" in holder:
            return _of_kernel(holder["pid"])["began"] == holder["began"]
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _name(holder: dict[str, Any]) -> str:
    return f"another driver ({_process(holder)})"


def _process(holder: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"process {holder['pid']} on {holder['host']}, since {since}"
