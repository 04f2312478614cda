"""Two drivers on one study: the second is told, a dead one is replaced, one that was replaced stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.6)


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


@contextmanager
def renewing(storage, clock_off=0.0):
    """Another machine's driver, which renews its lease; its clock may be off."""
    ended = threading.Event()

    def renew():
        while not ended.wait(lease.RENEW_SECONDS):
            held(storage, renewed=time.time() + clock_off)

    held(storage, renewed=time.time() + clock_off)
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("clock_off", [0.0, -7200.0, 7200.0])
def test_a_second_driver_is_refused_whatever_the_first_ones_clock_says(storage, clock_off):
    told = []
    with (
        renewing(storage, clock_off),
        pytest.raises(StudyBusyError, match=r"process 7 on elsewhere, since .* works on the study"),
        sole_driver(storage, told.append),
    ):
        raise AssertionError("the body must not run")
    assert storage.read_json(FILE)["id"] == "x"
    assert "may work on this study; looking for" in told[0]


@pytest.mark.parametrize("clock_off", [0.0, -7200.0, 7200.0])
def test_a_lease_that_nobody_renews_is_taken_over_whatever_the_clock_says(storage, clock_off):
    held(storage, renewed=time.time() + clock_off)
    started = time.monotonic()
    with sole_driver(storage):
        assert storage.read_json(FILE)["host"] == socket.gethostname()
    # One that looks stale is watched for a shorter time.
    assert time.monotonic() - started < (0.5 if clock_off < 0 else 5.0)


def test_the_lease_of_a_process_that_has_ended_here_is_taken_over_at_once(storage):
    ended = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    mine = lease._this_process() | lease._of_kernel(ended.pid) | {"pid": ended.pid}
    held(storage, **mine)
    with pytest.raises(StudyBusyError), sole_driver(storage):
        raise AssertionError("the body must not run")
    ended.communicate()
    told = []
    with sole_driver(storage, told.append):
        assert storage.read_json(FILE)["pid"] == os.getpid()
    assert told == []


def test_a_restarted_container_with_the_same_name_and_number_goes_on_at_once(storage):
    """The process that has the old one's number is this very one."""
    held(storage, **lease._this_process() | {"began": 1})
    told = []
    with sole_driver(storage, told.append):
        assert storage.read_json(FILE)["began"] > 1
    assert told == []


@pytest.mark.parametrize("live", [True, False])
def test_a_lease_of_an_earlier_version_knows_number_and_host_only(storage, monkeypatch, live):
    monkeypatch.setattr(lease, "_of_kernel", lambda pid: {})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    held(storage, host=socket.gethostname(), pid=os.getppid() if live else ended.pid)
    if live:
        with pytest.raises(StudyBusyError), sole_driver(storage):
            raise AssertionError("the body must not run")
    else:
        with sole_driver(storage):
            assert storage.read_json(FILE)["pid"] == os.getpid()


def test_a_lease_that_cannot_be_read_is_nobodys(storage, caplog):
    storage.write_bytes(FILE, b'{"id": "x", "ho')
    with sole_driver(storage):
        assert storage.read_json(FILE)["pid"] == os.getpid()
    assert "driver.json is damaged" in caplog.text


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
