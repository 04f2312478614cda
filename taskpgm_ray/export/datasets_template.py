"""The Python module that the exporter ``datasets`` writes; @TASKS@ and @EXAMPLES@ are filled in."""

TEMPLATE = '''"""A mixture of fine-tuning tasks for Hugging Face datasets (4 or later).

    from mixture_dataset import exact, sampled
"""

from datasets import concatenate_datasets, interleave_datasets, load_dataset

EXAMPLES = @EXAMPLES@
TASKS = @TASKS@


def _read(file, streaming):
    examples = load_dataset("json", data_files=file, split="train", streaming=streaming)
    return examples.select_columns(["prompt", "response"])


def sampled(seed=0):
    """A stream of EXAMPLES examples, each from a task drawn by weight; small tasks repeat."""
    streams = [
        _read(task["file"], True).shuffle(seed=seed, buffer_size=10_000).repeat(None) for task in TASKS.values()
    ]
    total = sum(task["weight"] for task in TASKS.values())
    mixed = interleave_datasets(
        streams,
        probabilities=[task["weight"] / total for task in TASKS.values()],
        seed=seed,
        stopping_strategy="first_exhausted",
    )
    return mixed.take(EXAMPLES)


def exact(seed=0):
    """A shuffled dataset in which every task gives exactly its count; small tasks repeat."""
    parts = []
    for task in TASKS.values():
        examples = _read(task["file"], False)
        epochs, rest = divmod(task["count"], len(examples))
        parts += [examples] * epochs
        if rest:
            parts.append(examples.shuffle(seed=seed).select(range(rest)))
    return concatenate_datasets(parts).shuffle(seed=seed)
'''
