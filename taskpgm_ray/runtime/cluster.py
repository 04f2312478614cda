"""The Ray cluster of a study: joined or started on first need, never before."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskpgm_ray.config import ClusterConfig
from taskpgm_ray.errors import ResourceError
from taskpgm_ray.runtime import scratch
from taskpgm_ray.runtime.signals import AT_ONCE, undisturbed

MOST_CALLS = 1_000_000
"""Calls that an actor of ours has open at one time: a waiting job is one, and those of the lanes must come through."""
PROBE_SECONDS = 20.0
"""A cluster's head that has not answered by then is taken for absent."""
TOO_SLOW = "timed out during startup"
"""In Ray's error, where its processes have not come up in time."""
MANY_WORKERS = "worker processes have been started"
_log = logging.getLogger(__name__)
_local: list[Path] = []
"""The folder of the local Ray, while there is one."""


def where(config: ClusterConfig) -> str:
    """What `ensure_ray` is about to do, in a few words."""
    import ray

    if ray.is_initialized():
        return "connected already"
    address = config.address or os.environ.get("RAY_ADDRESS")
    return f"joining the cluster at {address}" if address else "starting on this machine"


def ensure_ray(config: ClusterConfig) -> bool:
    """Connect to the configured cluster, or start a local one; nothing to do when connected already.

    Returns:
        Whether this call started a local Ray, which the caller then ends with `end_ray`.

    Raises:
        ResourceError: There is no such cluster, or Ray does not start here.
    """
    import ray

    if ray.is_initialized():
        return False
    address = config.address or os.environ.get("RAY_ADDRESS")
    failure = f"no Ray cluster answers at {named(config)}" if address else "Ray does not start on this machine"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if address:
            _probe(address)
            with undisturbed():
                ray.init(address=address, **options)
        else:
            scratch.remove_abandoned()
            try:
                _start_local(config.num_cpus, options)
            except Exception as error:  # Ray raises bare exceptions where its processes do not come up in time
                if TOO_SLOW not in str(error):
                    raise
                # It gives them half a minute, whatever else a machine is at; the second time their files are read.
                _log.warning("Ray has not started within its half a minute: this machine is busy; trying once more")
                end_ray()
                _start_local(config.num_cpus, options)
    except KeyboardInterrupt:
        # What has started by then belongs to nobody yet.
        end_ray()
        raise
    except Exception as error:  # Ray raises bare exceptions where its processes do not come up in time
        end_ray()
        raise ResourceError(f"{failure}: {' '.join(str(error).split())}") from error
    _leave_out_remarks()
    return address is None


def _start_local(cpus: int | None, options: dict[str, Any]) -> None:
    import ray

    _local.append(scratch.new_folder("ray"))
    # Ray's start-up prints and phones home by default; a local study does neither.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _loopback_only(), _without_remarks(), scratch.marked(_local[-1]), undisturbed():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=str(_local[-1]), **options)


def end_ray() -> None:
    """End the local Ray that `ensure_ray` started, and remove what it leaves on the disk."""
    import ray

    ray.shutdown()
    while _local:
        scratch.remove(_local.pop())


def _kill_ray() -> None:
    """End the local Ray without waiting for it."""
    for folder in _local:
        scratch.kill(folder)


AT_ONCE.append(_kill_ray)


def named(config: ClusterConfig) -> str:
    """The address of the cluster to join, and where it comes from."""
    if config.address:
        return f"cluster.address={config.address}"
    return f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')} (from the environment)"


def _probe(address: str) -> None:
    """Raise when no cluster's head answers: Ray itself tries for two minutes, and then ends the process."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    found = canonicalize_bootstrap_address_or_die(address)
    code = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
    line = [sys.executable, "-c", code, found]
    try:
        done = subprocess.run(line, check=False, capture_output=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"waited {PROBE_SECONDS:.0f} s; is this the head's own port (6379 by default)?") from None
    if done.returncode:
        raise ConnectionError(done.stderr.decode().strip().rpartition("\n")[2] or "its head refuses the connection")


@contextmanager
def _loopback_only() -> Iterator[None]:
    """A Ray that starts in the body listens on 127.0.0.1 alone: whoever reaches its ports can run code.

    Ray has this for laptops whose firewall asks about every port, and decides it by an environment variable that it
    reads when it is imported.
    """
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, constant = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Ray tells at every start that its processes ask each other for a token, which is as it should be."""
    log = logging.getLogger("ray._private.authentication.authentication_token_setup")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def telling(tell: Callable[..., None]) -> Callable[..., None]:
    """Ray's own printing of the cluster's messages, without those that say nothing to a user.

    Trials that only wait are processes too, and Ray warns at every other one that there are many.
    """

    def told(message: dict[str, Any], *arguments: Any, **options: Any) -> None:
        if not any(MANY_WORKERS in str(line) for line in message.get("lines", ())):
            tell(message, *arguments, **options)

    return told


def _leave_out_remarks() -> None:
    from ray._private import worker

    # In the module, where the thread that listens looks it up: one that waits for a message already would not see more.
    module: Any = worker
    if module.print_to_stdstream.__module__ != __name__:
        module.print_to_stdstream = telling(module.print_to_stdstream)


def stop_listening() -> None:
    """Print no more of Ray's messages: that its workers die is what an end consists of.

    Ray does the same as the first part of its own shutdown, after the messages of what was ended before it.
    """
    from ray._private.worker import global_worker

    worker: Any = global_worker
    if worker.connected:
        worker.threads_stopped.set()
        worker.gcs_error_subscriber.close()


def thread_environment(threads: int) -> dict[str, str]:
    """Environment of a worker process whose numerical libraries shall use ``threads`` threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    # Threads that wait spin for some microseconds, then sleep. Sleeping at once halves the speed of a small model, as
    # its parallel regions are short; spinning for long takes the cores from the lanes and engines that share the node.
    quiet = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0", "TOKENIZERS_PARALLELISM": "false"}
    return {name: str(threads) for name in names} | quiet


def threads_of(cpus: float, threads: int | None) -> int:
    """CPU threads of a process that reserves ``cpus`` CPUs."""
    return threads or max(1, math.ceil(cpus))


def on_this_node() -> Any:
    """Scheduling on the node of the calling process, and on no other: what must outlive every node but the driver's."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def share_of_this_node() -> dict[str, float]:
    """Hardly any of a resource that only this process's node has: `on_this_node` for what takes no strategy."""
    import ray

    return {f"node:{ray.util.get_node_ip_address()}": 1e-4}


def node_lost(error: BaseException) -> bool:
    """Whether this is the end of a process whose node was taken away: preempted, drained or dead."""
    from ray.exceptions import ActorDiedError, LocalRayletDiedError, NodeDiedError
    from ray.train import ControllerError, PreemptionError, WorkerGroupError

    cause = root_cause(error)
    if isinstance(cause, ControllerError):
        return node_lost(cause.controller_failure)
    if isinstance(cause, WorkerGroupError):
        return any(node_lost(failure) for failure in cause.worker_failures.values())
    if isinstance(cause, ActorDiedError):
        # Ray marks preemption where the autoscaler announced it; of other nodes it only writes so.
        return cause.preempted or "node has died" in str(cause)
    return isinstance(cause, (NodeDiedError, LocalRayletDiedError, PreemptionError))


def root_cause(error: BaseException) -> BaseException:
    """The exception that a user can act upon, out of Ray's wrappers."""
    seen = error
    while True:
        inner = getattr(seen, "cause", None) or getattr(seen, "training_failed_error", None)
        if not isinstance(inner, BaseException):
            return seen
        seen = inner
