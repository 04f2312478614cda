"""The workers of a lane: one alone, or several that share every batch (DDP) and perhaps the model (FSDP)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This worker's place among those of its lane. Every method is called by all workers, in the same order."""

    rank: int = 0
    size: int = 1
    parallel: Literal["ddp", "fsdp"] = "ddp"

    @staticmethod
    def of_this_lane(parallel: Literal["ddp", "fsdp"]) -> Workers:
        """The workers of the process group that Ray Train has set up."""
        import torch.distributed as dist

        return Workers(dist.get_rank(), dist.get_world_size(), parallel) if dist.is_initialized() else Workers()

    @property
    def first(self) -> bool:
        """Whether this worker speaks for the lane: takes jobs, writes artifacts."""
        return self.rank == 0

    @property
    def whole(self) -> bool:
        """Whether each worker holds the whole model, and not a share of every layer."""
        return self.size == 1 or self.parallel == "ddp"

    def wrap(self, model: Any, base: Any, device: str) -> Any:
        """Bring ``model`` to the device; the module to call instead, which averages gradients over the workers.

        Args:
            model: What is called: the Hugging Face model, or one with an adapter.
            base: The Hugging Face model in it.
            device: Of this worker.
        """
        if not self.whole:
            # Moves one layer at a time and keeps this worker's share of it: the whole need not fit on one device.
            return _shard(model, base)
        model.to(device)
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, forward_sync_buffers=False)

    def accumulating(self, module: Any, last: bool) -> AbstractContextManager[Any]:
        """Around each forward and backward pass of a step: gradients are exchanged in the last one only."""
        if self.size == 1:
            return nullcontext()
        if self.parallel == "fsdp":
            module.set_requires_gradient_sync(last)
            return nullcontext()
        return nullcontext() if last else module.no_sync()

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the workers; the same bits on all of them."""
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on the first worker, on all of them; its exception is raised on all as well."""
        if self.size == 1:
            return make()
        import torch.distributed as dist

        made: list[Any] = [None, None]
        if self.first:
            try:
                made[0] = make()
            except Exception as error:  # whatever it is, the others must not wait for ever
                made[1] = error
        dist.broadcast_object_list(made, src=0)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def agree(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on this worker; when it raises on any of them, the exception is raised on all."""
        if self.size == 1:
            return make()
        import torch.distributed as dist

        result: Any = None
        errors: list[Any] = [None] * self.size
        mine: Exception | None = None
        try:
            result = make()
        except Exception as error:  # raised below, on all workers
            mine = error
        dist.all_gather_object(errors, mine)
        raised = next((error for error in errors if error is not None), None)
        if raised is not None:
            raise raised
        return result


def full(parameter: Any) -> Any:
    """A detached whole copy on the CPU of a parameter, or of its optimizer state, that may be sharded."""
    tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return tensor.detach().to("cpu", copy=True).contiguous()


def own_part(parameter: Any) -> Any:
    """This worker's part of a parameter, all of it where it is not sharded; written to, the parameter changes."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def like(tensor: Any, parameter: Any) -> Any:
    """``tensor`` on the device of ``parameter``, sharded as it is."""
    if not hasattr(parameter, "full_tensor"):
        return tensor.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    # Every worker holds the whole tensor, so each cuts out its own part and nothing is sent.
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def _shard(model: Any, base: Any) -> Any:
    """Shard every decoder layer, then what is left (embedding, head), over the workers."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    layers = set(base._no_split_modules or ())
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)
