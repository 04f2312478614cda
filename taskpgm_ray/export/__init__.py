"""``mixture.json``, and the mixture in the formats of common trainers."""

from importlib import import_module

from taskpgm_ray.export.mixture import MixtureDocument, MixtureTask, check_mixture, load_mixture
from taskpgm_ray.export.registry import EXPORTERS, export

# Each registers what it can write.
for _name in (
    *("axolotl", "huggingface", "llamafactory", "open_instruct", "ray_data", "streaming", "swift", "tables"),
    *("tokens", "torchtune"),
):
    import_module(f"taskpgm_ray.export.formats.{_name}")

__all__ = ["EXPORTERS", "MixtureDocument", "MixtureTask", "check_mixture", "export", "load_mixture"]
