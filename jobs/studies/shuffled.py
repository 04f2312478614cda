"""Make the harmful tasks of pool (d): ``python jobs/studies/shuffled.py data/pool runs/shuffled``.

Each file has the prompts of a data set of the pool and its responses, in an order that belongs to other prompts: the
format is learned as always, and everything else is wrong.
"""

import json
import random
import sys
from pathlib import Path

HARMFUL = ("hate_speech_offensive", "mnli", "strategyqa", "task591_sciq_answer_generation")


def main(pool: str, folder: str) -> None:
    """Write one file a data set."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in HARMFUL:
        rows = [json.loads(line) for line in (Path(pool) / f"{name}.jsonl").read_text("utf-8").splitlines()]
        responses = [row["response"] for row in rows]
        random.Random(name).shuffle(responses)
        with (Path(folder) / f"shuffled_{name}.jsonl").open("w", encoding="utf-8") as stream:
            for row, response in zip(rows, responses, strict=True):
                stream.write(json.dumps({"prompt": row["prompt"], "response": response}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
