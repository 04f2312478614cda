"""``status``: how far a study is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_json, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands
    from taskpgm_ray.state import State


def add(commands: Commands) -> None:
    """See the module."""
    text = "how far a study is: what is done, failed and left, and who works on it"
    sub = commands.add_parser("status", help=text, description=text)
    sub.add_argument("study", help="the study's folder")
    add_json(sub)
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """A few lines, or JSON."""
    from dataclasses import asdict

    from taskpgm_ray.state import state_of
    from taskpgm_ray.storage import Storage

    state = state_of(Storage(options.study))
    if options.json:
        print_json(asdict(state))
    else:
        print("\n".join(lines(state)))


def lines(state: State) -> list[str]:
    """The state in words."""
    if state.driver is not None and state.alive is not False:
        doing = f"{state.driver} works on it" if state.alive else f"{state.driver} may work on it"
    else:
        doing = "nobody works on it" + (f" ({state.driver} is gone)" if state.driver else "")
    told = [f"{state.folder}: {'finished' if state.finished else 'not finished'}; {doing}"]
    width = max((len(unit.what) for unit in state.units), default=0)
    for unit in state.units:
        of = "" if unit.planned is None or state.finished else f" of at most {unit.planned:,}"
        more = [f"{count:,} {word}" for word, count in (("begun", unit.begun), ("failed", unit.failed)) if count]
        told.append(f"  {unit.what:<{width}}  {unit.done:,}{of}{'; ' + ', '.join(more) if more else ''}")
    told += [f"  {unit} failed: {why}" for unit, why in state.failures.items()]
    if state.seconds_left:
        told.append(f"  left: about {_time(state.seconds_left)} of fine-tuning with all lanes, if no mixtures coincide")
    told.append(f"  on disk: {state.bytes / 2**20:,.0f} MiB")
    if state.finished:
        told.append(f"  mixture: {state.folder}/mixture.json, report: {state.folder}/report.html")
    return told


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(seconds / 60, 1):.0f} min"
