"""Speeds to plan with where nothing was measured: peak of the GPU, and the share of it that such work reaches."""

from __future__ import annotations

from typing import Any

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.layers import linear_layers

PEAKS = {
    "A10": 125e12,
    "A100": 312e12,
    "B200": 2250e12,
    "H100": 989e12,
    "H200": 989e12,
    "L4": 121e12,
    "L40S": 362e12,
}
"""Dense bfloat16 operations a second, from NVIDIA's data sheets (those of SXM modules where there are several)."""
TRAINED, READ = 0.3, 0.4
"""Assumed shares of the peak: of training in micro-batches, of an engine that reads prompts. On an H200 a model of 1.1
billion weights reached 0.30, and 0.37 (eight positions a prompt) to 0.52 (one): docs/how-to/gpu-workstation.md."""


def training_speed(config: StudyConfig, model: Any, gpu: str) -> float:
    """Tokens a second of one lane.

    A token takes two operations a weight forwards and two backwards, or four where all weights are trained: under an
    adapter the base model's have no gradients. With gradient checkpointing it goes forwards twice.

    Args:
        config: The study, whose lanes may be several workers, or a part of a GPU.
        model: The base model's own configuration (transformers ``PretrainedConfig``).
        gpu: One of `PEAKS`.
    """
    lanes = config.finetune.lanes
    passes = (4 if config.finetune.adapter else 6) + 2 * lanes.gradient_checkpointing
    return TRAINED * PEAKS[gpu] * (lanes.gpus or 1) * lanes.workers / (passes * weights(model, config))


def reading_speed(config: StudyConfig, model: Any, gpu: str) -> float:
    """Tokens of prompts a second of one engine."""
    return READ * PEAKS[gpu] * (config.scoring.engines.gpus or 1) / (2 * weights(model, config))


def weights(model: Any, config: StudyConfig) -> float:
    """Weights that a token is multiplied with: every linear layer and the output head."""
    layers = linear_layers(model, config.model.trust_remote_code)
    text = model.get_text_config()
    return float(sum(inputs * outputs for inputs, outputs in layers.values()) + text.hidden_size * text.vocab_size)
