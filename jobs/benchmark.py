"""Compare this package with its peers: ``python jobs/benchmark.py NAME ... [--json FILE]``, one table for all names.

Every NAME is one file of ``jobs/benchmarks`` with a function ``run() -> list of rows``; a row is {"what", "ours",
"peer", "peer_name", "ratio", "target", "met"}, times in seconds. Ours and the peers run in turn in one process, and
every figure is a median of at least three repeats.
"""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "benchmarks"
sys.path.insert(0, str(FOLDER.parent.parent))


def names() -> list[str]:
    """The benchmarks that exist."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))


def main() -> None:
    """Run the benchmarks, print their table, write its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=names(), metavar="NAME", help=", ".join(names()))
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")
    parser.add_argument("--targets", action="store_true", help="show only the rows that have a target")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    rows = [row for name in arguments.names for row in load(name).run()]
    show(" ".join(arguments.names), [row for row in rows if row["target"] is not None or not arguments.targets])
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")


def load(name: str) -> Any:
    """The module of one benchmark."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def show(name: str, rows: list[dict[str, object]]) -> None:
    """Print the rows as one table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"benchmark {name}")
    for column in ("what", "ours", "peer", "peer_name", "ratio", "target", "met"):
        table.add_column(column)
    for row in rows:
        cells = [f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()]
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
