"""Mosaic Streaming: the tasks' examples, and a module that shards them and mixes by proportion."""

from __future__ import annotations

import json
from pathlib import Path

from taskpgm_ray.export.examples import Bundle
from taskpgm_ray.export.registry import exporter, messages, plain_or_chat, write_tasks

TEMPLATE = '''"""A mixture of fine-tuning tasks for Mosaic Streaming (0.9 or later).

    python mixture_streaming.py            # once: writes the shards
    from mixture_streaming import mixture  # then
"""

import json
from pathlib import Path

from streaming import MDSWriter, Stream, StreamingDataset

HERE = Path(__file__).parent
EXAMPLES = @EXAMPLES@
TASKS = @TASKS@
COLUMNS = @COLUMNS@


def write_shards():
    """One folder of shards a task."""
    for task in TASKS.values():
        with MDSWriter(out=str(HERE / "shards" / Path(task["file"]).stem), columns=COLUMNS) as out:
            with open(HERE / "data" / task["file"], encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    out.write({name: row[name] if kind == "str" else row.get(name) for name, kind in COLUMNS.items()})


def mixture(**options):
    """A StreamingDataset whose epoch is EXAMPLES examples, drawn by weight; small tasks repeat."""
    streams = [
        Stream(local=str(HERE / "shards" / Path(task["file"]).stem), proportion=task["weight"])
        for task in TASKS.values()
    ]
    settings = {"shuffle": True, "epoch_size": EXAMPLES, "batch_size": 1}
    return StreamingDataset(streams=streams, **{**settings, **options})


if __name__ == "__main__":
    write_shards()
'''


@exporter(
    "streaming",
    "mixture_streaming.py for Mosaic Streaming (Stream with proportion), and the tasks' examples",
    text=True,
)
def _streaming(bundle: Bundle, folder: Path) -> list[Path]:
    files = write_tasks(bundle, folder, messages if bundle.chat else plain_or_chat)
    columns = {"messages": "json", "tools": "json"} if bundle.chat else {"prompt": "str", "completion": "str"}
    tasks = {
        task.name: {"file": file.name, "weight": weight}
        for task, file, weight in zip(bundle.tasks, files, bundle.probabilities, strict=True)
    }
    filled = TEMPLATE.replace("@TASKS@", json.dumps(tasks, indent=4)).replace("@COLUMNS@", json.dumps(columns))
    path = folder / "mixture_streaming.py"
    path.write_text(filled.replace("@EXAMPLES@", str(bundle.document["examples"])), encoding="utf-8")
    return [path, *files]
