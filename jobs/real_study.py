"""Run a study (or go on with it) and write its table: ``python jobs/real_study.py [--config FILE] [--out FILE]``."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    """0 on success, 1 when something has to be mended first; the same command goes on from what is finished."""
    from taskpgm_ray import Study, load_config
    from taskpgm_ray.errors import TaskPGMError
    from taskpgm_ray.report.markdown import study_table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=str(ROOT / "jobs" / "smollm2-study.yaml"))
    parser.add_argument("--out", default=str(ROOT / "docs" / "real-study.md"))
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    options = parser.parse_args()
    try:
        result = Study(load_config(options.config, options.overrides)).run()
    except TaskPGMError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    config = Path(options.config)
    shown = config.relative_to(ROOT) if config.is_relative_to(ROOT) else config
    command = " ".join(["python jobs/real_study.py", f"--config {shown}", *options.overrides])
    Path(options.out).write_text(study_table(result.report, command), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
