"""What the questions of a study's tasks settle: ``python jobs/studies/settled.py STUDY``, after `taskpgm finetune`.

One line for each single-task adapter, the least first: the share, its standard error, and whether anything is shown.
"""

import sys
from pathlib import Path

from taskpgm_ray.finetune.usable import Usable
from taskpgm_ray.storage import Storage


def main(folder: str) -> None:
    """Print the lines."""
    storage = Storage(str(Path(folder)))
    units = [storage.read_json(f"adapters/{name}/manifest.json") for name in storage.names("adapters")]
    found = [(Usable(**unit["usable"]), unit["name"]) for unit in units if unit.get("usable")]
    for one, name in sorted(found, key=lambda pair: pair[0].share):
        print(f"{one.share:6.2f} ± {one.share_error:.2f}  {'shown' if one.shown else '-':5s}  {name}")


if __name__ == "__main__":
    main(sys.argv[1])
