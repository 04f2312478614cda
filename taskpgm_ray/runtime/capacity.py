"""Requests that no node of a cluster can ever meet: found when the study connects, not after a night of waiting."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import ConfigError, ResourceError, raise_all

JOIN_SECONDS = 20.0
"""A node that is about to join a cluster without an autoscaler is waited for so long."""
LOOK_SECONDS = 1.0
ACCELERATOR = "accelerator_type:"
LANE_BYTES = 1_070_000_000
"""What steers a lane, wherever it trains: Ray Train's controller, the task that waits for it, and four small actors."""
NODE_LABEL = "ray.io/node-id"
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where Ray's cluster launcher leaves the autoscaler's node types on the head, on which drivers run."""


@dataclass(frozen=True)
class Need:
    """What one process reserves on one node."""

    section: str
    """Of the config, which asks for it."""
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    together: int = 1
    """So many of them have to be there at one time."""

    def __str__(self) -> str:
        words = [_words(name, amount) for name, amount in self.resources.items() if amount]
        return ", ".join(words + [f"the label {key}={value}" for key, value in self.labels.items()])

    def alone(self) -> Iterator[tuple[str, Need]]:
        """Each field of the config with what it asks for by itself."""
        for name, amount in self.resources.items():
            yield f"{self.section}.{_field(name)}", Need(self.section, {name: amount}, {})
        yield f"{self.section}.labels", Need(self.section, {}, self.labels)


@dataclass(frozen=True)
class Node:
    """A node of the cluster, or a kind of node that its autoscaler can add."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] | None
    """``None``: not known."""

    def holds(self, need: Need) -> bool:
        """Whether an empty node of this kind has room for it."""
        return all(self.resources.get(name, 0) >= amount for name, amount in need.resources.items()) and (
            self.labels is None or all(matches(value, self.labels.get(key)) for key, value in need.labels.items())
        )

    def room(self, need: Need) -> int:
        """How many of these processes an empty node of this kind holds."""
        asked = {name: amount for name, amount in need.resources.items() if amount}
        return min(int(self.resources[name] / amount) for name, amount in asked.items()) if self.holds(need) else 0

    def __str__(self) -> str:
        shown = [(name, amount) for name, amount in self.resources.items() if _field(name)]
        return ", ".join(_words(name, amount) for name, amount in sorted(shown)) or "no CPUs"


def check_capacity(config: StudyConfig) -> list[str]:
    """Compare what lanes and engines reserve with the nodes of the connected cluster, and with those it can add.

    Returns:
        What a user should know, a line each: the cluster has an autoscaler whose kinds of nodes are not known here, or
        GPUs that nothing asks for.

    Raises:
        ResourceError: No node can ever hold a lane's worker or an engine, or all nodes together not a lane's workers.
        Problems: Neither of them.
    """
    deadline = time.monotonic() + JOIN_SECONDS
    kinds = _node_types()
    while True:
        nodes = _nodes()
        unmet = [need for need in _needs(config) if not any(node.holds(need) for node in [*nodes, *(kinds or ())])]
        if not unmet or kinds is not None or _autoscales() or time.monotonic() > deadline:
            break
        time.sleep(LOOK_SECONDS)
    if unmet and kinds is None and _autoscales():
        return [f"{need.section} needs {need}, which no node has now: the autoscaler has to add one" for need in unmet]
    raise_all([ResourceError(_message(need, [*nodes, *(kinds or ())])) for need in unmet])
    if kinds is None and not _autoscales():
        raise_all(
            [ResourceError(_too_many(need, nodes)) for need in _needs(config) if _room(need, nodes) < need.together]
        )
    return idle_gpus(config, sum(node.resources.get("GPU", 0) for node in nodes), "the cluster")


def most_lanes() -> int:
    """Lanes that the nodes of the connected cluster have memory to steer; any number where more nodes can come."""
    import ray

    if _autoscales():
        return sys.maxsize
    nodes, here = ray.nodes(), ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in nodes if node["Alive"] and node["NodeID"] != here]
    return room_here() + sum(room_to_steer(nodes, one) for one in others)


def room_here() -> int:
    """Lanes that the calling process's node steers: as many as it has memory for, and one in any case."""
    import ray

    return max(1, room_to_steer(ray.nodes(), ray.get_runtime_context().get_node_id()))


def elsewhere() -> dict[str, Any]:
    """Ray's options for what steers a lane from some node that is not the calling process's."""
    import ray

    return {"memory": LANE_BYTES, "label_selector": {NODE_LABEL: f"!{ray.get_runtime_context().get_node_id()}"}}


def room_to_steer(nodes: Sequence[Mapping[str, Any]], node: str) -> int:
    """Lanes that one of these nodes (`ray.nodes`) has memory for; any number where Ray was not told how much it has."""
    memory = next(one["Resources"].get("memory") for one in nodes if one["NodeID"] == node)
    return sys.maxsize if memory is None else int(memory / LANE_BYTES)


def side_by_side(config: StudyConfig) -> bool:
    """Whether all lanes, all engines and whatever else a study asks for have room on one node at one time.

    Where nobody else uses that node, idle ones are then in nobody's way.
    """
    lanes, engines = config.finetune.lanes, config.scoring.engines
    workers = lanes.max * lanes.workers
    other = max(1.0, lanes.cpus)  # merges take a lane's CPUs, everything else one
    cpus = workers * lanes.cpus + engines.max * engines.cpus + other
    gpus = workers * lanes.gpus + engines.max * engines.gpus
    together = Need("lanes and engines", _resources(cpus, gpus, lanes.accelerator_type), lanes.labels)
    return any(node.holds(together) for node in _nodes())


def idle_gpus(config: StudyConfig, gpus: float, whose: str) -> list[str]:
    """A line where there are GPUs and neither lanes nor engines ask for any.

    Args:
        config: The study.
        gpus: How many there are.
        whose: ``the cluster`` or ``this machine``.
    """
    if not gpus or config.finetune.lanes.gpus or config.scoring.engines.gpus:
        return []
    return [
        f"{whose} has {gpus:g} GPUs that stay idle: nothing asks for them; set finetune.lanes.gpus=1 and "
        "scoring.engines.gpus=1 (0.5 each where they share one)"
    ]


def matches(wanted: str, value: str | None) -> bool:
    """Whether a node's label has a wanted value, in Ray's notation: ``a``, ``!a``, ``in(a, b)`` or ``!in(a, b)``."""
    negated, wanted = wanted.startswith("!"), wanted.removeprefix("!")
    listed = re.fullmatch(r"in\((.*)\)", wanted)
    allowed = [word.strip() for word in listed[1].split(",")] if listed else [wanted]
    return (value in allowed) != negated


def _needs(config: StudyConfig) -> Iterator[Need]:
    lanes, engines = config.finetune.lanes, config.scoring.engines
    worker = _resources(lanes.cpus, lanes.gpus, lanes.accelerator_type)
    yield Need("finetune.lanes", worker, lanes.labels, lanes.workers)
    yield Need("scoring.engines", _resources(engines.cpus, engines.gpus, engines.accelerator_type), {})


def _resources(cpus: float, gpus: float, accelerator: str | None) -> dict[str, float]:
    kind = {f"{ACCELERATOR}{accelerator}": 0.001} if accelerator else {}
    return {"CPU": cpus, "GPU": gpus, **kind}


def _nodes() -> list[Node]:
    import ray

    return [Node(node["Resources"], node.get("Labels") or {}) for node in ray.nodes() if node["Alive"]]


def _node_types() -> list[Node] | None:
    """The kinds of nodes that the autoscaler can add; ``None`` where that is not known."""
    from ray._private.state import state

    reported = state.get_cluster_config()
    if reported is not None and reported.node_group_configs:
        return [Node(dict(group.resources), None) for group in reported.node_group_configs if group.max_count]
    file = BOOTSTRAP.expanduser()
    if not file.exists() or not _autoscales():
        return None
    try:
        kinds: dict[str, Any] = yaml.safe_load(file.read_text())["available_node_types"]
        return [
            Node(kind["resources"], kind.get("labels"))
            for kind in kinds.values()
            # Ray finds out itself what a machine has where the file does not say.
            if kind.get("resources") and kind.get("max_workers", 1)
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}, which Ray's autoscaler works by, cannot be read: {error!r}") from error


def _autoscales() -> bool:
    """Whether this cluster has an autoscaler: one that only watches names each node's kind by the node."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    kinds = json.loads(status).get("autoscaler_report", {}).get("active_nodes") or {} if status else {}
    return any(re.fullmatch("node_[0-9a-f]{56}", kind) is None for kind in kinds)


def _message(need: Need, nodes: list[Node]) -> str:
    key = lambda node: (node.resources.get("GPU", 0), node.resources.get("CPU", 0))  # noqa: E731
    have = f"the largest has {max(nodes, key=key)}" if nodes else "there is none"
    fields = [field for field, part in need.alone() if not any(node.holds(part) for node in nodes)]
    if f"{need.section}.labels" in fields:
        known = sorted({f"{k}={v}" for node in nodes for k, v in (node.labels or {}).items() if k in need.labels})
        have += f", and {', '.join(known) or 'none has a label of that name'}"
    return (
        f"{' and '.join(fields) or need.section}: {need} are needed on one node, and no node of this cluster can ever "
        f"hold that ({have}); lower it, or add such a node"
    )


def _room(need: Need, nodes: Sequence[Node]) -> int:
    return sum(node.room(need) for node in nodes)


def _too_many(need: Need, nodes: Sequence[Node]) -> str:
    return (
        f"{need.section}.workers: a lane's {need.together} workers, with {need} each, have to be there at one time, "
        f"and all nodes of this cluster together hold {_room(need, nodes)}; lower it, or add nodes"
    )


def _field(resource: str) -> str:
    """The name of a resource in the config; empty of those that it does not name."""
    return {"CPU": "cpus", "GPU": "gpus"}.get(resource) or ("accelerator_type" if ACCELERATOR in resource else "")


def _words(resource: str, amount: float) -> str:
    if ACCELERATOR in resource:
        return f"accelerator_type {resource.removeprefix(ACCELERATOR)}"
    return f"{amount:g} {resource}s"
