"""Joining a cluster that is not there, and a Ray that does not start: one line, soon."""

import socket
from pathlib import Path

import pytest
import ray

from taskpgm_ray.config import ClusterConfig
from taskpgm_ray.errors import ResourceError
from taskpgm_ray.runtime import cluster
from taskpgm_ray.runtime.cluster import telling


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def mute():
    """The address of something that takes connections and never answers, as a dashboard does to Ray's own calls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_something_else_at_the_address_is_not_waited_for(mute, monkeypatch):
    monkeypatch.setattr(cluster, "PROBE_SECONDS", 5.0)
    with pytest.raises(ResourceError, match=rf"no Ray cluster answers at cluster.address={mute}: waited 5 s; is this"):
        cluster.ensure_ray(ClusterConfig(address=mute))
    monkeypatch.setenv("RAY_ADDRESS", mute)
    with pytest.raises(ResourceError, match=rf"answers at RAY_ADDRESS={mute} \(from the environment\): waited 5 s"):
        cluster.ensure_ray(ClusterConfig())


def test_an_address_that_is_none(monkeypatch):
    with pytest.raises(ResourceError, match=r"cluster\.address=nonsense: Invalid address format"):
        cluster.ensure_ray(ClusterConfig(address="nonsense"))


def test_a_ray_that_does_not_start_here(monkeypatch):
    def slow(**options):
        raise Exception("The current node timed out during startup.\nThis could ...")  # noqa: TRY002  # as Ray does

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(ResourceError, match=r"^Ray does not start on this machine: The current node .*\.\.\.$"):
        cluster.ensure_ray(ClusterConfig())


def test_a_ray_that_is_slow_once_starts_the_second_time(monkeypatch, caplog):
    folders = []

    def slow_once(**options):
        folders.append(Path(options["_temp_dir"]))
        folders[-1].mkdir()
        if len(folders) == 1:
            raise Exception("The current node timed out during startup.")  # noqa: TRY002  # as Ray does

    monkeypatch.setattr(ray, "init", slow_once)
    assert cluster.ensure_ray(ClusterConfig())
    assert "trying once more" in caplog.text
    assert [folder.exists() for folder in folders] == [False, True]
    cluster.end_ray()
    assert not folders[-1].exists()


def test_messages_that_say_nothing_to_a_user_are_left_out():
    told = []
    tell = telling(lambda message, ignore_prefix: told.append(message["lines"]))
    tell({"lines": ["WARNING: 12 PYTHON worker processes have been started on node"]}, ignore_prefix=False)
    tell({"lines": ["a worker died"]}, ignore_prefix=False)
    assert told == [["a worker died"]]
