"""``mixture.json``, and the mixture in the formats of common trainers."""

from taskpgm_ray.export.mixture import load_mixture, mixture_document

__all__ = ["load_mixture", "mixture_document"]
