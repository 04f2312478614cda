"""``run``, and its parts: ``finetune``, ``score``, ``affinity``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from taskpgm_ray.commands.arguments import add_config, add_json, config_of, on_stderr, print_json

if TYPE_CHECKING:
    from taskpgm_ray.commands import Commands
    from taskpgm_ray.config import StudyConfig

PARTS = {
    "finetune": "only the single-task adapters",
    "score": "up to the predictive distributions on the probe set",
    "affinity": "up to the affinity matrix",
}


def add(commands: Commands) -> None:
    """See the module."""
    text = "the whole study: prepare, fine-tune, score, search, report"
    sub = commands.add_parser("run", help=text, description=text)
    add_config(sub)
    sub.add_argument("--dry-run", action="store_true", help="check everything and count the fine-tunes, and stop")
    add_json(sub, "print the mixture as JSON in the end, and the progress on standard error")
    sub.set_defaults(command=run)
    for name, text in PARTS.items():
        sub = commands.add_parser(name, help=text, description=text)
        add_config(sub)
        sub.set_defaults(command=run_part, last_stage=name)


def run(options: argparse.Namespace) -> None:
    """The whole study, or what there is to say of it before."""
    if options.dry_run:
        _dry_run(config_of(options))
        return
    config = config_of(options)
    # Before what takes seconds to import.
    print(begins(config), file=sys.stderr if options.json else sys.stdout, flush=True)
    from taskpgm_ray import Study

    if options.json:
        print_json(Study(config, on_stderr()).run().mixture)
    else:
        Study(config).run()


def begins(config: StudyConfig) -> str:
    """The first line of a run."""
    from taskpgm_ray.paths import redacted, without_options

    base, options = without_options(config.storage)
    return f"study {config.study} in {redacted(base.rstrip('/'))}/{config.study}{redacted(options)}"


def _dry_run(config: StudyConfig) -> None:
    from taskpgm_ray.engine_forecast import probe_rounds
    from taskpgm_ray.tasks.sources import task_sources
    from taskpgm_ray.validate import validate
    from taskpgm_ray.workload import fine_tunes, merges, searches_by_merges

    for line in validate(config):
        print(line)
    if rounds := probe_rounds(config):
        print(f"probes: {rounds}")
    rows = fine_tunes(config, len(task_sources(config.pool)))
    most = "at most " if searches_by_merges(config) else ""
    print(
        f"fine-tunes: {most}{', '.join(f'{row.jobs:,} {row.kind}' for row in rows)}; taskpgm plan says what they take"
    )
    if merges(config):
        print(f"merges: at most {merges(config):,} are scored on the search split")


def run_part(options: argparse.Namespace) -> None:
    """The stages up to the one that the command names."""
    config = config_of(options)
    print(begins(config), flush=True)
    from taskpgm_ray import Study
    from taskpgm_ray.report.bandwidths import bandwidth_rows, rich_table

    study = Study(config)
    with study.driving():
        trained = study.finetune(study.prepare())
        if options.last_stage == "score":
            study.score(*trained)
        elif options.last_stage == "affinity":
            found = study.affinities(*trained)
            if rows := bandwidth_rows(found, [task.facts.group for task in trained[1]]):
                study.console.print(rich_table(rows))
    made = {"finetune": "adapters", "score": "scores", "affinity": "affinity"}[options.last_stage]
    print(f"{made}: {study.storage.path(made)}")
