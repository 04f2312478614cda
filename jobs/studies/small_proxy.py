"""Make a small proxy out of SmolLM2's first layers: ``python jobs/studies/small_proxy.py runs/small-proxy``.

It stands for the paper's GPT-2 where no hub can be reached: a fifth of the layers, the same tokenizer. Cut off in the
middle a model predicts nonsense. The affinities ask what fine-tuning makes of it.
"""

import sys
from pathlib import Path

from taskpgm_ray.config import ModelConfig
from taskpgm_ray.models import PACKAGED, prepare, resolve
from taskpgm_ray.storage import Storage

LAYERS = 6


def main(folder: str) -> None:
    """Write the model's folder."""
    base = resolve(ModelConfig(path=PACKAGED), Storage(str(Path(folder).parent)))
    prepare(base)
    model = base.load()
    decoder = model.get_decoder()
    decoder.layers = decoder.layers[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:LAYERS]
    model.save_pretrained(folder)
    base.tokenizer().save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
