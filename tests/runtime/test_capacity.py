"""What a cluster can never hold is said when the study connects to it."""

from types import SimpleNamespace

import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import ConfigError, Problems, ResourceError
from taskpgm_ray.runtime import capacity
from taskpgm_ray.runtime.capacity import (
    LANE_BYTES,
    Node,
    check_capacity,
    elsewhere,
    matches,
    most_lanes,
    room_here,
    room_to_steer,
    side_by_side,
)

SMALL = Node({"CPU": 8.0, "memory": 1e9}, {"ray.io/market-type": "on-demand"})
GPUS = Node({"CPU": 16.0, "GPU": 4.0, "accelerator_type:A100": 1.0}, {"ray.io/market-type": "spot"})


@pytest.fixture
def check(monkeypatch):
    """(overrides, nodes, node types of the autoscaler, whether there is one) -> the check's lines."""

    def run(overrides, nodes=(SMALL, GPUS), kinds=None, autoscales=False):
        seconds = iter(range(1000))
        monkeypatch.setattr(capacity.time, "monotonic", lambda: float(next(seconds)))
        monkeypatch.setattr(capacity.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(capacity, "_nodes", lambda: list(nodes))
        monkeypatch.setattr(capacity, "_node_types", lambda: kinds)
        monkeypatch.setattr(capacity, "_autoscales", lambda: autoscales)
        config = {"study": "s", "pool": {"tasks": ["jsonl:x"]}, "finetune": {"steps": 3}}
        return check_capacity(load_config(config, overrides))

    return run


def test_what_fits_on_some_node_is_fine(check):
    assert check(["finetune.lanes.gpus=1", "finetune.lanes.accelerator_type=A100", "scoring.engines.cpus=16"]) == []
    assert check(["finetune.lanes.labels={ray.io/market-type: spot}", "scoring.engines.gpus=1"]) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["finetune.lanes.cpus=64"],
            r"^finetune\.lanes\.cpus: 64 CPUs are needed on one node, and no node of this cluster can ever hold that "
            r"\(the largest has 16 CPUs, 4 GPUs, accelerator_type A100\); lower it, or add such a node$",
        ),
        (["scoring.engines.gpus=8", "scoring.engines.tensor_parallel=8"], r"^scoring\.engines\.gpus: 1 CPUs, 8 GPUs"),
        (
            ["finetune.lanes.gpus=1", "finetune.lanes.accelerator_type=H200"],
            r"^finetune\.lanes\.accelerator_type: 1 CPUs, 1 GPUs, accelerator_type H200 are needed",
        ),
        (
            ["finetune.lanes.labels={ray.io/market-type: reserved}"],
            r"^finetune\.lanes\.labels: .*the label ray.io/market-type=reserved.*"
            r"and ray.io/market-type=on-demand, ray.io/market-type=spot\)",
        ),
        (["finetune.lanes.labels={zone: a}"], "none has a label of that name"),
        # Each is there, but never together.
        (["finetune.lanes.gpus=1", "finetune.lanes.labels={ray.io/market-type: on-demand}"], r"^finetune\.lanes: 1 CP"),
    ],
)
def test_what_no_node_can_hold_is_refused(check, overrides, message):
    with pytest.raises(ResourceError, match=message):
        check(overrides)


def test_the_workers_of_a_lane_need_room_at_one_time(check):
    wide = ["finetune.lanes.gpus=1", "finetune.lanes.workers=8", "finetune.lanes.parallel=fsdp"]
    with pytest.raises(
        ResourceError, match=r"^finetune\.lanes\.workers: a lane's 8 workers, with 1 CPUs, 1 GPUs each, .* hold 4;"
    ):
        check(wide)
    assert check(wide, nodes=(SMALL, GPUS, GPUS)) == []
    # Nodes may come.
    assert check(wide, kinds=[GPUS], autoscales=True) == []
    assert check(wide, autoscales=True) == []


def test_lanes_and_engines_are_refused_together(check):
    with pytest.raises(Problems, match=r"finetune\.lanes\.cpus: 64.*\n.*scoring\.engines\.cpus: 99"):
        check(["finetune.lanes.cpus=64", "scoring.engines.cpus=99"])


def test_a_node_that_the_autoscaler_can_add_counts(check):
    wanted = ["finetune.lanes.gpus=1"]
    assert check(wanted, nodes=[SMALL], kinds=[GPUS], autoscales=True) == []
    with pytest.raises(ResourceError, match=r"finetune\.lanes\.gpus"):
        check(wanted, nodes=[SMALL], kinds=[SMALL], autoscales=True)
    (line,) = check(wanted, nodes=[SMALL], autoscales=True)
    assert line == ("finetune.lanes needs 1 CPUs, 1 GPUs, which no node has now: the autoscaler has to add one")


def test_a_node_that_is_about_to_join_is_waited_for(check, monkeypatch):
    class Joining:
        asked = 0

        def __iter__(self):
            self.asked += 1
            return iter([SMALL, GPUS] if self.asked > 3 else [SMALL])

    assert check(["finetune.lanes.gpus=1"], nodes=Joining()) == []


def test_labels_in_rays_notation():
    assert matches("spot", "spot")
    assert not matches("spot", None)
    assert matches("!spot", "on-demand")
    assert matches("!spot", None)
    assert matches("in(a, b)", "b")
    assert not matches("in(a, b)", "c")
    assert matches("!in(a, b)", "c")
    assert not matches("!in(a, b)", "a")


def test_the_launchers_file_names_the_kinds_of_nodes(tmp_path, monkeypatch):
    from ray._private.state import state

    monkeypatch.setattr(state, "get_cluster_config", lambda: None)
    monkeypatch.setattr(capacity, "_autoscales", lambda: True)
    monkeypatch.setattr(capacity, "BOOTSTRAP", tmp_path / "bootstrap.yaml")
    assert capacity._node_types() is None
    (tmp_path / "bootstrap.yaml").write_text(
        "available_node_types:\n"
        "  head: {resources: {CPU: 0}, max_workers: 0}\n"
        "  gpus: {resources: {CPU: 8, GPU: 1}, labels: {zone: a}, max_workers: 3}\n"
    )
    assert capacity._node_types() == [Node({"CPU": 8, "GPU": 1}, {"zone": "a"})]
    (tmp_path / "bootstrap.yaml").write_text("available_node_types: 7")
    with pytest.raises(ConfigError, match=r"bootstrap.yaml, which Ray's autoscaler works by, cannot be read"):
        capacity._node_types()


def test_gpus_that_nothing_asks_for_are_named(check):
    (line,) = check([])
    assert line.startswith("the cluster has 4 GPUs that stay idle")
    assert "finetune.lanes.gpus=1" in line
    assert check(["finetune.lanes.gpus=1"]) == check(["scoring.engines.gpus=1"]) == check([], nodes=[SMALL]) == []


@pytest.mark.parametrize(
    ("overrides", "fit"),
    [
        (["finetune.lanes.cpus=3", "scoring.engines.cpus=2"], True),  # merges take a lane's three CPUs
        (["finetune.lanes.cpus=3", "scoring.engines.cpus=2.1"], False),
        (["finetune.lanes.max=7", "finetune.lanes.cpus=0.5", "scoring.engines.cpus=3.5"], True),
        (["finetune.lanes.max=7", "finetune.lanes.cpus=0.5", "scoring.engines.max=2", "scoring.engines.cpus=2"], False),
        (["finetune.lanes.workers=8"], False),
        (["finetune.lanes.gpus=1", "finetune.lanes.max=4"], True),
        (["finetune.lanes.gpus=1", "finetune.lanes.max=4", "scoring.engines.gpus=1"], False),
    ],
)
def test_lanes_and_engines_side_by_side(monkeypatch, overrides, fit):
    gpus = any("gpus" in override for override in overrides)
    monkeypatch.setattr(capacity, "_nodes", lambda: [GPUS if gpus else SMALL])
    config = {"study": "s", "pool": {"tasks": ["jsonl:x"]}, "finetune": {"steps": 3}}
    assert side_by_side(load_config(config, overrides)) is fit


def test_a_node_steers_as_many_lanes_as_its_memory_holds():
    nodes = [
        {"NodeID": "head", "Resources": {"CPU": 2.0, "memory": 10.5 * LANE_BYTES}},
        {"NodeID": "worker", "Resources": {"CPU": 64.0, "memory": 500 * LANE_BYTES}},
        {"NodeID": "small", "Resources": {"memory": 1e6}},
        {"NodeID": "silent", "Resources": {"CPU": 1.0}},
    ]
    assert [room_to_steer(nodes, node) for node in ("head", "worker", "small")] == [10, 500, 0]
    assert room_to_steer(nodes, "silent") > 10**6


@pytest.fixture
def two_nodes(monkeypatch):
    """A head with memory for ``room`` lanes, a worker for three, and one that is gone."""
    import ray

    def make(room, autoscales=False):
        nodes = [
            {"NodeID": name, "Alive": name != "gone", "Resources": {"memory": lanes * LANE_BYTES}}
            for name, lanes in (("head", room), ("worker", 3.5), ("gone", 8))
        ]
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "head"))
        monkeypatch.setattr(capacity, "_autoscales", lambda: autoscales)

    return make


def test_other_nodes_steer_what_the_drivers_has_no_memory_for(two_nodes):
    two_nodes(room=2.5)
    assert room_here() == 2
    assert elsewhere() == {"memory": LANE_BYTES, "label_selector": {"ray.io/node-id": "!head"}}
    # A first lane is steered whatever there is.
    two_nodes(room=0.1)
    assert room_here() == 1


def test_the_cluster_limits_the_lanes_unless_it_grows(two_nodes):
    two_nodes(room=2.5)
    assert most_lanes() == 2 + 3
    two_nodes(room=0.1)
    assert most_lanes() == 1 + 3
    two_nodes(room=2.5, autoscales=True)
    assert most_lanes() > 10**6
