import json

import pytest

from taskpgm_ray.export import MixtureDocument, MixtureTask

NAMES = ["boolq", "mawps", "unused", "sst2"]
WEIGHTS = [0.5, 0.3, 0.0, 0.2]
COUNTS = [50, 30, 0, 20]
AVAILABLE = [40, 100, 10, 20]


@pytest.fixture
def document():
    """Boolq gives more than it has (1.25 epochs), sst2 exactly all, unused nothing."""
    tasks = tuple(
        MixtureTask(name=name, weight=weight, count=count, available=available, source=f"jsonl:{name}.jsonl")
        for name, weight, count, available in zip(NAMES, WEIGHTS, COUNTS, AVAILABLE, strict=True)
    )
    return MixtureDocument(
        study="demo", fingerprint="0123456789abcdef", tasks=tasks, tau=2.0, energy=-0.25, gap=1e-16, gamma=3.5
    ).as_json()


@pytest.fixture
def files(tmp_path):
    """Training examples of each task that takes part."""
    folder = tmp_path / "data"
    folder.mkdir()
    paths = {}
    for name, available in zip(NAMES, AVAILABLE, strict=True):
        if name != "unused":
            paths[name] = folder / f"{name}.jsonl"
            lines = [json.dumps({"prompt": f"{name} {i}?", "response": f"{i}"}) for i in range(available)]
            paths[name].write_text("\n".join(lines) + "\n")
    return paths
