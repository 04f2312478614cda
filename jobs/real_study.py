"""Run a study (or go on with it) and write its table: ``python jobs/real_study.py [--config FILE] [--out FILE]``.

``--record FILE`` also writes what ``jobs/evidence.py`` puts together from several studies.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    """0 on success, 1 when something has to be mended first; the same command goes on from what is finished."""
    from taskpgm_ray import Study, load_config
    from taskpgm_ray.errors import TaskPGMError
    from taskpgm_ray.report.markdown import study_table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "jobs" / "smollm2-study.yaml"))
    parser.add_argument("--out", help="the table in Markdown (default: docs/real-study.md, with --record none)")
    parser.add_argument("--record", metavar="FILE", help="the comparisons as JSON")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    options = parser.parse_args()
    try:
        result = Study(load_config(options.config, options.overrides)).run()
    except TaskPGMError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    config = Path(options.config).resolve()
    shown = config.relative_to(ROOT) if config.is_relative_to(ROOT) else options.config
    command = " ".join(["python jobs/real_study.py", f"--config {shown}", *options.overrides])
    out = options.out or (None if options.record else ROOT / "docs" / "real-study.md")
    if out:
        Path(out).write_text(study_table(result.report, command), encoding="utf-8")
    if options.record:
        Path(options.record).parent.mkdir(parents=True, exist_ok=True)
        Path(options.record).write_text(json.dumps(record(result.report, command), indent=1) + "\n", encoding="utf-8")
    return 0


def record(data, command):
    """What a study says of every method, as plain values."""
    (chosen,) = {one.system for one in data.comparisons} or {None}
    methods = {trial.name: list(trial.weights) for trial in data.trials}
    judged = {row.system for row in data.by_seed}
    return {
        "study": data.study,
        "command": command,
        "hours": sum(stage.seconds or 0.0 for stage in data.stages) / 3600,
        "tasks": data.names,
        "metric": data.metric,
        "chosen": chosen,
        "verdict": data.verdict,
        "weights": {name: weights for name, weights in methods.items() if name in judged},
        "mixture": list(map(float, data.weights)),
        "against_uniform": [
            {
                "system": one.system,
                "scope": one.scope,
                "metric": one.result.metric,
                "difference": one.result.difference,
                "low": one.result.low,
                "high": one.result.high,
                "p": one.result.p_value,
                "p_holm": one.p_value,
                "seeds": one.result.seeds,
                "items": one.result.items,
                "seed_error": one.result.seed_error,
                "item_error": one.result.item_error,
            }
            for one in data.against_uniform
        ],
        "by_seed": [
            {"system": row.system, "seed": row.seed, "gold_logprob": row.gold_logprob, "accuracy": row.accuracy}
            for row in data.by_seed
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
