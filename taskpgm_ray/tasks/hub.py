"""The source ``hf:``: data sets of the Hugging Face hub, and local folders that ``datasets`` understands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskpgm_ray.config import TaskSpec
from taskpgm_ray.errors import DataError
from taskpgm_ray.paths import local_content, looked_in, looks_local
from taskpgm_ray.tasks.arrow_rows import labels_of, restored
from taskpgm_ray.tasks.example import Reading
from taskpgm_ray.tasks.layouts import read_records


def spec_identity(spec: TaskSpec) -> dict[str, Any]:
    """All of a spec that decides over the examples; what later versions added only where it is set."""
    raw = spec.model_dump(mode="json", exclude={"name", "parts"})
    return {key: value for key, value in raw.items() if key not in ("layout", "answers") or value is not None}


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face hub, or a local folder that ``datasets.load_dataset`` understands."""

    name: str
    dataset: str
    spec: TaskSpec

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine."""
        return Path(self.dataset).is_absolute()

    @property
    def shown(self) -> str:
        """Where it comes from, for a reader."""
        return f"hf:{self.dataset}"

    @classmethod
    def expand(cls, spec: TaskSpec, target: str, notes: list[str]) -> list[HubDataset]:
        """One task; a target that means a path, by how it looks or because it is there, never goes to the hub."""
        if looks_local(target):
            # Absolute: it is read in a Ray worker, whose folder may be another one.
            path = Path(target).expanduser().absolute()
            if not path.is_dir():
                raise DataError(
                    f"{target!r} is a file, and hf: reads folders; write files:{target}"
                    if path.exists()
                    else f"there is no folder {target!r}{looked_in(target)} (pool.tasks source {spec.source})"
                )
            return [cls(spec.name or path.name + (f"-{spec.subset}" if spec.subset else ""), str(path), spec)]
        default = target.rstrip("/").rpartition("/")[2] + (f"-{spec.subset}" if spec.subset else "")
        return [cls(spec.name or default, target, spec)]

    def identity(self) -> dict[str, Any]:
        """Name, subset, split, revision and templates. Pin ``revision``: an unpinned set may change unseen.

        Of a local folder the content counts, not the name.
        """
        if not self.local:
            return spec_identity(self.spec)
        try:
            content = local_content(self.dataset)
        except OSError as error:
            raise DataError(f"task {self.name!r}: {self.dataset} cannot be read: {error}") from error
        return {**spec_identity(self.spec), "source": "hf", "content": content}

    def read(self, limit: int, seed: int) -> Reading:
        """A seeded draw of ``limit`` records."""
        from datasets import load_dataset

        try:
            data = load_dataset(self.dataset, self.spec.subset, split=self.spec.split, revision=self.spec.revision)
        except Exception as error:  # the hub client raises many unrelated classes
            raise DataError(f"{self.shown}: cannot be loaded ({type(error).__name__}: {error})") from error
        labels = labels_of(data.features)
        schema = data.features.arrow_schema
        drawn = data.shuffle(seed=seed).select(range(min(limit, len(data))))
        records = [
            (f"{self.shown}, record {i}", restored(dict(record), schema, labels)) for i, record in enumerate(drawn)
        ]
        return read_records(records, len(data), self.spec, seed)
