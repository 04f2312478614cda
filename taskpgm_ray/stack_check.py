"""Whether the stack works on this machine: an adapter is trained, and both engines score it alike."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import ScoringError
from taskpgm_ray.runtime.preflight import local_gpus
from taskpgm_ray.scoring.auto_scorer import AGREEMENT
from taskpgm_ray.study import Study

EXAMPLES, STEPS = 160, 20


@dataclass(frozen=True)
class StackCheck:
    """What was measured."""

    tokens_per_second: float
    """A lane's, on the faster task: the first one pays for what is built once."""
    loss: tuple[float, float]
    """On held-out examples before and after, nats per token."""
    positions_per_second: dict[str, float]
    """By engine."""
    apart: float
    """Largest total variation distance of the two engines' predictions, at any position."""

    def lines(self) -> list[str]:
        """For the terminal."""
        speeds = ", ".join(f"{name} {speed:,.0f}" for name, speed in self.positions_per_second.items())
        before, after = self.loss
        return [
            f"training: {self.tokens_per_second:,.0f} tokens/s; held-out loss {before:.3f} -> {after:.3f} nats/token",
            f"scoring, positions/s: {speeds}; predictions at most {self.apart:.1e} apart "
            f"({AGREEMENT['float32']:.0e} allowed)",
        ]


def check_stack(model: str, console: Console) -> StackCheck:
    """Fine-tune two tasks for a few steps on a lane, and have vLLM and Hugging Face score both; in float32.

    Ray, lanes and engines are those of a study, on a GPU where there is one.

    Args:
        model: The base model, as ``model.path``.
        console: Where the stages are shown.

    Raises:
        TaskPGMError: Whatever does not work. `ScoringError`: the engines differ, or training did not lower the loss.
    """
    with tempfile.TemporaryDirectory(prefix="taskpgm-stack-") as folder:
        study = Study(stack_config(model, Path(folder), local_gpus()), console)
        with study.driving():
            tasks = study.prepare()
            jobs, _ = study.finetune(tasks)
            study.score(jobs, tasks)
            trained = [job.unit.manifest() for job in jobs]
            (scorer,) = (study.storage / "scorers").names()
            measured = study.storage.read_json(f"scorers/{scorer}/manifest.json")
    losses = [(one["heldout_loss_before"], one["heldout_loss_after"]) for one in trained]
    for before, after in losses:
        if not after < before:
            raise ScoringError(
                f"{STEPS} steps did not lower the held-out loss ({before:.3f} before, {after:.3f} after): training "
                "does not work with this model on this machine"
            )
    return StackCheck(
        max(one["tokens"] / one["seconds"] for one in trained),
        losses[-1],
        measured["positions_per_second"],
        measured["largest_distance"],
    )


def stack_config(model: str, folder: Path, gpus: int) -> StudyConfig:
    """A study of two small tasks, written to ``folder``, with a lane and an engine that have a GPU if there is one."""
    rows = {
        "sums": [(f"{a} + {b} =", f" {a + b}") for a in range(13) for b in range(13)],
        "order": [(f"The larger of {a} and {b} is", f" {max(a, b)}") for a in range(13) for b in range(20, 33)],
    }
    for name, pairs in rows.items():
        lines = [json.dumps({"prompt": prompt, "response": response}) for prompt, response in pairs[:EXAMPLES]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    has = {"gpus": 1} if gpus else {}
    return StudyConfig.model_validate(
        {
            "study": "stack",
            "storage": str(folder / "runs"),
            "model": {"path": model, "dtype": "float32", "max_length": 64},
            "pool": {"tasks": [f"jsonl:{folder}/{name}.jsonl" for name in rows], "probes_per_task": 24},
            "finetune": {
                "steps": STEPS,
                "batch_size": 16,
                "learning_rate": 1e-3,
                "lanes": {"max": 1, "cpus": 1, "threads": None if gpus else 1, **has},
            },
            "scoring": {
                "scorer": "auto",
                "top_k": 63,
                "engines": {"max": 1, "cpus": 0.9, "max_model_length": 128, "max_loras": 2, **has},
            },
            "affinity": {"gamma": "median"},
            "search": {"balances": 0},
            "mixture": {"tau": 0.0},
        }
    )
