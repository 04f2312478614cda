"""The main job: find the mixture of a pool of fine-tuning tasks.

    python jobs/optimize.py --config jobs/quickstart.yaml                    # a laptop: starts a local Ray by itself
    ray job submit --working-dir . -- python jobs/optimize.py --config ...   # the same on a cluster

Without ``--config`` it runs the quickstart. ``section.field=value`` overrides any value of the config.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from taskpgm_ray.cli import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--config" not in arguments and not {"-h", "--help"} & set(arguments):
        arguments = ["--config", str(Path(__file__).with_name("quickstart.yaml")), *arguments]
    sys.exit(main(["run", *arguments]))
