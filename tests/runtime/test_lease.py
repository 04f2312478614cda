"""Two drivers on one study: the second is told, a dead one is replaced, one that was replaced stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskpgm_ray.errors import StudyBusyError
from taskpgm_ray.runtime import lease
from taskpgm_ray.runtime.lease import FILE, sole_driver
from taskpgm_ray.storage import Storage


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)


def held(storage, **changes):
    holder = {"id": "x", "host": "elsewhere", "pid": 7, "since": time.time(), "renewed": time.time(), **changes}
    storage.write_json(FILE, holder)


def test_a_lease_is_renewed_and_given_back(storage):
    with sole_driver(storage):
        first = storage.read_json(FILE)
        assert first["pid"] == os.getpid()
        deadline = time.monotonic() + 10
        while storage.read_json(FILE)["renewed"] == first["renewed"]:
            assert time.monotonic() < deadline, "the lease is not renewed"
            time.sleep(0.02)
    assert not storage.exists(FILE)


def test_a_second_driver_is_refused_and_changes_nothing(storage):
    held(storage)
    before = storage.read_bytes(FILE)
    with (
        pytest.raises(StudyBusyError, match=r"process 7 on elsewhere, since .* is free in (60|59) s"),
        sole_driver(storage),
    ):
        raise AssertionError("the body must not run")
    assert storage.read_bytes(FILE) == before


def test_a_stale_lease_is_taken_over(storage):
    held(storage, renewed=time.time() - lease.STALE_SECONDS - 1)
    with sole_driver(storage):
        assert storage.read_json(FILE)["host"] == socket.gethostname()


def test_the_lease_of_a_process_that_has_ended_here_is_taken_over_at_once(storage):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    held(storage, host=socket.gethostname(), pid=ended.pid)
    with sole_driver(storage):
        assert storage.read_json(FILE)["pid"] == os.getpid()


def test_of_two_that_start_at_once_one_goes_on(storage, monkeypatch):
    # The other driver writes after this one has looked, and before it looks again.
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: held(storage))
    with pytest.raises(StudyBusyError, match="process 7 on elsewhere"), sole_driver(storage):
        raise AssertionError("the body must not run")


@pytest.fixture(params=["in the foreground", "in a shell's background"])
def started(request):
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler if request.param == "in the foreground" else signal.SIG_IGN
    )
    yield
    signal.signal(signal.SIGINT, before)


def test_a_driver_that_was_replaced_stops(storage, started):
    handler = signal.getsignal(lease.INTERRUPT)

    def drive():
        with sole_driver(storage):
            # As a driver that goes on does: written once, it can fall between this driver's look and its write.
            for _ in range(1000):
                held(storage)
                time.sleep(0.03)

    with pytest.raises(StudyBusyError, match=r"process 7 on elsewhere.* took the study over"):
        drive()
    assert json.loads(storage.read_bytes(FILE))["id"] == "x"
    assert signal.getsignal(lease.INTERRUPT) == handler


def test_a_driver_in_a_thread_keeps_the_lease(storage):
    def drive():
        with sole_driver(storage):
            return storage.read_json(FILE)["pid"]

    with ThreadPoolExecutor() as pool:
        assert pool.submit(drive).result() == os.getpid()
    assert not storage.exists(FILE)


def test_a_users_interrupt_stays_one(storage):
    with pytest.raises(KeyboardInterrupt), sole_driver(storage):
        raise KeyboardInterrupt
    assert not storage.exists(FILE)
