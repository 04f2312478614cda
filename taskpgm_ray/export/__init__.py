"""``mixture.json``, and the mixture in the formats of common trainers."""

from taskpgm_ray.export.mixture import check_mixture, load_mixture, mixture_document
from taskpgm_ray.export.trainers import EXPORTERS, export

__all__ = ["EXPORTERS", "check_mixture", "export", "load_mixture", "mixture_document"]
