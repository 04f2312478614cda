"""``metrics.jsonl``: one line per optimizer step that was computed, also for those that a fault made worthless."""

from __future__ import annotations

import json
from typing import Any

from taskpgm_ray.storage import Unit

FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to a unit's metrics; a step that was computed twice has two lines, so lost work can be counted."""

    def __init__(self, unit: Unit) -> None:
        self.files = unit.files
        self.lines: list[str] = []

    def write(self, row: dict[str, Any]) -> None:
        """Add a line; at once where files can be appended to, else with the next `flush`."""
        self.lines.append(json.dumps(row) + "\n")
        if self.files.is_local:
            self.flush()

    def flush(self) -> None:
        """Make sure that every line is stored."""
        if self.lines:
            self.files.append_bytes(FILE, "".join(self.lines).encode())
            self.lines.clear()
