"""LoRA fine-tuning as a plain loop: no Ray, no trainer class, one function per step of the recipe.

>>> trainer = LoraTrainer(base_model, recipe.lora)                     # doctest: +SKIP
>>> outcome = trainer.run(batches, recipe, folder, pad_id=0)           # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from taskpgm_ray.config import LoraSection
from taskpgm_ray.errors import ModelError, TrainingError
from taskpgm_ray.finetune.job import Recipe
from taskpgm_ray.tasks.batches import Pair, collate

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


class LoraTrainer:
    """A base model with one LoRA adapter that is re-initialised for every run, so the base is loaded only once."""

    def __init__(self, model: Any, lora: LoraSection, device: str = "cpu") -> None:
        from peft import LoraConfig, get_peft_model

        modules = lora.target_modules
        try:
            self.model = get_peft_model(
                model,
                LoraConfig(
                    r=lora.r,
                    lora_alpha=lora.alpha,
                    lora_dropout=lora.dropout,
                    target_modules=modules if isinstance(modules, str) else list(modules),
                    task_type="CAUSAL_LM",
                ),
            ).to(device)
        except ValueError as error:
            raise ModelError(f"finetune.lora.target_modules={modules!r} does not fit this model: {error}") from error
        self.device = device
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def run(
        self,
        examples: Iterator[Pair],
        recipe: Recipe,
        folder: Path,
        pad_id: int,
        heldout: Sequence[Pair] = (),
        on_step: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> dict[str, Any]:
        """Train one adapter from the common initialisation and write it, with ``metrics.jsonl``, into ``folder``.

        Args:
            examples: Endless (prompt_ids, response_ids) in training order.
            recipe: Budget, optimiser and seeds.
            folder: An existing empty folder; gets a standard PEFT adapter.
            pad_id: Token id that fills short rows.
            heldout: Examples whose loss is measured before and after.
            on_step: Called with each step's metrics row.

        Returns:
            ``steps``, ``tokens`` (trained, without padding), ``seconds``, ``loss_first``, ``loss_last`` and, with
            held-out examples, ``heldout_loss_before`` and ``heldout_loss_after``; losses in nats per response token.

        Raises:
            TrainingError: The loss is not finite.
        """
        import torch

        self._initialise(recipe.init_seed)
        torch.manual_seed(recipe.seed)
        before = self.mean_loss(heldout, pad_id)
        optimizer = torch.optim.AdamW(self.parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.model.train()
        started, tokens = time.perf_counter(), 0
        losses: list[float] = []
        with (folder / "metrics.jsonl").open("w", encoding="utf-8") as metrics:
            while (progress := budget_used(recipe, len(losses), tokens)) < 1:
                batch = collate([next(examples) for _ in range(recipe.batch_size)], pad_id, self.device)
                rate = learning_rate(recipe, progress)
                loss = self._step(batch, optimizer, rate, recipe.max_grad_norm)
                tokens += batch.tokens
                losses.append(loss)
                row = {
                    "step": len(losses),
                    "loss": loss,
                    "learning_rate": rate,
                    "tokens": tokens,
                    "seconds": round(time.perf_counter() - started, 3),
                }
                metrics.write(json.dumps(row) + "\n")
                on_step(row)
        seconds = time.perf_counter() - started
        self.model.save_pretrained(str(folder), safe_serialization=True)
        outcome = {
            "steps": len(losses),
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "loss_first": losses[0],
            "loss_last": losses[-1],
        }
        if heldout:
            outcome |= {"heldout_loss_before": before, "heldout_loss_after": self.mean_loss(heldout, pad_id)}
        return outcome

    def mean_loss(self, examples: Sequence[Pair], pad_id: int, rows: int = 16) -> float:
        """Mean negative log-likelihood per response token, in nats, over all response tokens of ``examples``."""
        import torch
        from torch.nn.functional import cross_entropy

        self.model.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            for start in range(0, len(examples), rows):
                batch = collate(examples[start : start + rows], pad_id, self.device)
                logits = batch.logits(self.model).float().flatten(0, 1)
                total += float(cross_entropy(logits, batch.targets.flatten(), ignore_index=-100, reduction="sum"))
                count += int((batch.targets != -100).sum())
        return total / max(count, 1)

    def _initialise(self, seed: int) -> None:
        """Draw the adapter's initial weights anew; the same seed gives the same weights in every lane."""
        import torch
        from peft.tuners.lora import LoraLayer

        torch.manual_seed(seed)
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.reset_lora_parameters("default", init_lora_weights=True)
        for parameter in self.parameters:
            parameter.grad = None

    def _step(self, batch: Any, optimizer: Any, rate: float, max_grad_norm: float) -> float:
        import torch
        from torch.nn.functional import cross_entropy

        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = batch.logits(self.model).float().flatten(0, 1)
        loss = cross_entropy(logits, batch.targets.flatten(), ignore_index=-100)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value}; lower finetune.learning_rate, or look for broken examples in this task"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value


def budget_used(recipe: Recipe, steps: int, tokens: int) -> float:
    """Part of the budget that is spent, 1 or more when it is used up."""
    return steps / recipe.steps if recipe.steps else tokens / (recipe.tokens or 1)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Linear warm-up, then cosine decay to a tenth of the peak.

    Args:
        recipe: Peak rate and warm-up fraction.
        progress: Part of the budget used so far, in [0, 1).
    """
    warmup = recipe.warmup_fraction
    if progress < warmup:
        # Never zero: with short budgets the first step would be lost.
        return recipe.learning_rate * max(progress / warmup, 0.1)
    decay = (progress - warmup) / (1 - warmup)
    return recipe.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * decay)))
