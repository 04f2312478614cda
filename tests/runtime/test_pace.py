"""Lines of a stage say its pace and what is left, where that takes long enough to matter."""

import io

import pytest
from rich.console import Console

from taskpgm_ray.runtime import progress
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.storage import Storage


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_pace_and_time_left_count_this_run_alone(tmp_path, clock):
    printed = io.StringIO()
    with Progress(Storage(str(tmp_path)), Console(file=printed, width=60)).stage("finetune", 10, reused=2) as stage:
        clock[0] += 60
        stage.finished("gcd", tokens=6000)
        clock[0] += 60
        stage.finished("lcm", tokens=6000)
        clock[0] += 1
        for name in "abcde":
            stage.finished(name)
    lines = printed.getvalue().splitlines()
    assert lines[1] == "  finetune  3/10  gcd (100 tokens/s, about 7 min left)"
    assert lines[2] == "  finetune  4/10  lcm (100 tokens/s, about 6 min left)"
    # Less than a minute is not worth a word.
    assert lines[7] == "  finetune  9/10  e"


def test_without_tokens_there_is_no_pace_in_tokens(tmp_path, clock):
    printed = io.StringIO()
    with Progress(Storage(str(tmp_path)), Console(file=printed)).stage("search", 3) as stage:
        clock[0] += 300
        stage.finished("tau-1")
    assert "tau-1 (about 10 min left)" in printed.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_are_broken_between_words_where_somebody_reads_them(tmp_path, terminal):
    printed = io.StringIO()
    text = "letter_counting: 1,504 to train on, 16 probes, 0 repeats and 0 over-long dropped"
    console = Console(file=printed, width=40, force_terminal=terminal, color_system=None, _environ={})
    with Progress(Storage(str(tmp_path)), console).stage("tasks", 1) as stage:
        stage.finished(text)
    lines = [line.rstrip() for line in printed.getvalue().splitlines()[1:] if "tasks:" not in line]
    assert " ".join(" ".join(lines).split()) == f"tasks 1/1 {text}"
    assert (max(map(len, lines)) <= 40) == (len(lines) > 1) == terminal
