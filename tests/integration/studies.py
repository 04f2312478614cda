"""A study as a user runs it, and what tests read from its folder: units, mixture, adapters, computed steps."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def optimize_command(config_file, *overrides):
    """The main job, as it is run and as it is submitted."""
    return [sys.executable, str(ROOT / "jobs" / "optimize.py"), "--config", str(config_file), *overrides]


def optimize(config_file, *overrides):
    """Run the main job to its end, in a process of its own and the config's folder; what it printed."""
    done = subprocess.run(
        optimize_command(config_file, *overrides),
        capture_output=True,
        text=True,
        timeout=540,
        cwd=config_file.parent,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def units(folder: Path) -> dict[str, int]:
    """Every finished unit below a folder -> when it was finished."""
    return {str(m.parent.relative_to(folder)): m.stat().st_mtime_ns for m in folder.rglob("manifest.json")}


def mixture(folder: Path) -> dict[str, float]:
    """Task -> weight."""
    return {task["name"]: task["weight"] for task in json.loads((folder / "mixture.json").read_text())["tasks"]}


def adapters(folder: Path) -> dict[str, bytes]:
    """Every finished adapter below a folder -> its weights."""
    return {
        str(file.parent.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("adapter_model.safetensors"))
        if (file.parent / "manifest.json").exists()
    }


def computed(folder: Path) -> dict[str, list[int]]:
    """Every fine-tune below a folder -> the steps that were computed for it, in the order in which they were."""

    def steps(file):
        # A line that is being written ends without its end.
        return [json.loads(line)["step"] for line in file.read_text().splitlines(True) if line.endswith("\n")]

    return {str(file.parent.relative_to(folder)): steps(file) for file in sorted(folder.rglob("metrics.jsonl"))}
