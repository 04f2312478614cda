"""What ends a run: every signal as Ctrl-C, the second at once, ignored ones stay ignored."""

import signal
import subprocess
import sys
import time

import pytest

from taskpgm_ray.runtime.signals import ENDING, exit_code, stoppable, undisturbed

PROGRAM = """
import sys, time
from taskpgm_ray.cli import main
from taskpgm_ray.commands import validate

def slow(options):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("tidied up", flush=True)
        time.sleep(float(sys.argv[1]))

validate.run = slow
sys.exit(main(["validate", "--config", "x"]))
"""


def run(*signals, tidying="0", ignored=()):
    """(exit code, what it printed, what it said) of a command that gets these signals."""

    def begin():
        # Whatever this test run ignores itself, as under nohup.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tidying],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=begin,  # noqa: PLW1509  # the tests run in one thread
    )
    assert process.stdout.readline() == "begun\n"
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    printed, said = process.communicate(timeout=30)
    return process.returncode, printed, said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_each_ends_the_run_in_order_and_says_so(number, code):
    returned, printed, said = run(number)
    assert (returned, printed) == (code, "tidied up\n")
    first, second = said.splitlines()
    assert first.startswith(f"taskpgm: {number.name}: stopping; finished work is kept")
    assert second == "taskpgm: interrupted; finished work is kept, the same command goes on from it"


def test_the_second_ends_it_at_once():
    began = time.monotonic()
    returned, printed, _ = run(signal.SIGTERM, signal.SIGINT, tidying="50")
    assert (returned, printed) == (130, "tidied up\n")
    assert time.monotonic() - began < 30


def test_what_was_ignored_stays_ignored():
    """As in a shell's background, and under nohup."""
    ignored = (signal.SIGINT, signal.SIGHUP)
    returned, _, said = run(*ignored, signal.SIGTERM, ignored=ignored)
    assert returned == 143
    assert "SIGINT" not in said
    assert "SIGHUP" not in said


def test_handlers_are_given_back_and_kept_from_libraries():
    before = [signal.getsignal(number) for number in ENDING]
    with stoppable():
        mine = [signal.getsignal(number) for number in ENDING]
        with undisturbed():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert [signal.getsignal(number) for number in ENDING] == mine
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in ENDING] == before
    assert exit_code() == 143
