"""What a vLLM worker does to take over the weights of another fine-tune of its model, and to say what it did not take.

vLLM 0.32 reloads a model in place. A layer that finds nothing in the files keeps its old weights, and a line is logged.
Of a head that is tied to the embedding that is as it should be; but on a CPU it computes with a packed copy of the
weights, which stays that of the model before.
"""

from __future__ import annotations

import logging
from typing import Any

REMARK = "Failed to load weights"
WITHOUT_WEIGHTS = ("Rotary",)
"""Parts of the names of layers that hold tables, and nothing that a file has."""


class WeightExchange:
    """Mixed into vLLM's worker class (its ``worker_extension_cls``)."""

    def exchange_weights(self, folder: str) -> list[str]:
        """Load the weights of a model's folder; returns the kinds of layers that kept those of the model before."""
        worker: Any = self
        remarks = _Remarks()
        source = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
        source.addHandler(remarks)
        try:
            worker.reload_weights(weights_path=folder)
        finally:
            source.removeHandler(remarks)
        model = worker.get_model()
        tied = {type(head).__name__ for head in _heads(model) if _tied(worker) and _shares_its_weights(head, model)}
        for head in _heads(model):
            method: Any = head.quant_method
            method.process_weights_after_loading(head)
        return sorted(kind for kind in remarks.kinds - tied if not any(part in kind for part in WITHOUT_WEIGHTS))


class _Remarks(logging.Handler):
    """Collects the kinds of layers of which vLLM says that they kept their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        kind, _, remark = record.getMessage().partition(": ")
        if remark == REMARK:
            self.kinds.add(kind)


def _heads(model: Any) -> list[Any]:
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    return [module for module in model.modules() if isinstance(module, ParallelLMHead)]


def _shares_its_weights(head: Any, model: Any) -> bool:
    """Whether the head's weights are those of the embedding in memory, so that they were exchanged with it."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    tables: list[Any] = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    return any(table is not head and table.weight.data_ptr() == head.weight.data_ptr() for table in tables)


def _tied(worker: Any) -> bool:
    return bool(worker.model_config.hf_text_config.tie_word_embeddings)
