"""``mixture.json``, and the mixture in the formats of common trainers."""

from taskpgm_ray.export.mixture import MixtureDocument, MixtureTask, check_mixture, load_mixture
from taskpgm_ray.export.trainers import EXPORTERS, export

__all__ = ["EXPORTERS", "MixtureDocument", "MixtureTask", "check_mixture", "export", "load_mixture"]
