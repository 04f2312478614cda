"""The command line: ``taskpgm run --config study.yaml pool.max_tasks=12``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from taskpgm_ray.errors import ConfigError, Problems, TaskPGMError
from taskpgm_ray.paths import redacted
from taskpgm_ray.runtime.signals import exit_code, stoppable

FORMATS = (
    *("axolotl", "csv", "datasets", "jsonl", "llamafactory", "megatron", "nemo", "olmo-core", "open-instruct"),
    *("parquet", "ray", "streaming", "swift", "torchtune", "trl"),
)
"""Those of `taskpgm_ray.export`, which takes a second to import."""
FULLY_EXPLAINED = 3
"""Tasks of which `taskpgm explain` shows every number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 when something has to be mended first (the message says what)."""
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, unknown = parser.parse_known_args(given)
    if unknown:
        parser.error(_no_option(unknown[0], given, hasattr(options, "overrides")))
    try:
        with stoppable():
            options.command(options)
    except TaskPGMError as error:
        for line in _lines(error):
            print(f"taskpgm: {redacted(line)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("taskpgm: interrupted; finished work is kept, the same command goes on from it", file=sys.stderr)
        return exit_code()
    return 0


def _lines(error: TaskPGMError) -> list[str]:
    """An error as it is printed: of several problems, or mistakes in a config, each has a line."""
    if isinstance(error, Problems):
        return error.lines
    kind = type(error).__name__
    if isinstance(error, ConfigError):
        return [f"{kind}: {line}" for line in str(error).splitlines()]
    return [f"{kind}: {error}"]


def _no_option(unknown: str, given: Sequence[str], overrides: bool) -> str:
    """What is wrong with an unknown option; most are config values, written as other programs have them."""
    if not overrides or not unknown.startswith("--"):
        return f"unrecognized argument: {unknown}"
    from taskpgm_ray.config import StudyConfig
    from taskpgm_ray.config_mistakes import all_fields, habitual

    name, equals, value = unknown.removeprefix("--").partition("=")
    following = given[given.index(unknown) + 1 :]
    if not equals:
        value = following[0] if following and not following[0].startswith("--") else "..."
    key, known = name.replace("-", "_"), list(all_fields(StudyConfig))
    # What a habit is called here may have a remark in brackets.
    field = (habitual(key) or key).partition(" ")[0]
    places = [field] if field in known or "." in field else [one for one in known if one.rpartition(".")[2] == field]
    if not places:
        return f"unrecognized argument: {unknown}; config values are given without dashes: section.field=value"
    return f"{unknown} is no option; config values are given without dashes: {f'={value} or '.join(places)}={value}"


def _parser() -> argparse.ArgumentParser:
    from taskpgm_ray import __version__

    parser = argparse.ArgumentParser(prog="taskpgm", description="In what proportions to mix fine-tuning tasks.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, command, text in (
        ("run", _run, "the whole study: prepare, fine-tune, score, search, report"),
        ("validate", _validate, "check config, task sources, model and storage, and stop"),
        ("finetune", _partly, "only the single-task adapters"),
        ("score", _partly, "up to the predictive distributions on the probe set"),
        ("affinity", _partly, "up to the affinity matrix"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--config", required=True, help="YAML file of the study")
        sub.add_argument("overrides", nargs="*", metavar="section.field=value", help="override config values")
        sub.set_defaults(command=command, last_stage=name)
        if command is _validate:
            text = "the study is for a cluster: leave out this machine's CPUs, GPUs, packages and access to the storage"
            sub.add_argument("--cluster", action="store_true", help=text)
    _add_tasks(commands)
    _add_plan(commands)
    _add_solve(commands)
    _add_explain(commands)
    _add_merge(commands)
    _add_export(commands)
    return parser


def _add_tasks(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "what was read of each task, and its first examples as the model sees them"
    sub = commands.add_parser("tasks", help=text, description=text)
    sub.add_argument("--config", required=True, help="YAML file of the study")
    sub.add_argument("--examples", type=int, default=1, metavar="N", help="examples of each task (default 1)")
    sub.add_argument("--json", action="store_true", help="print all of it as JSON")
    sub.add_argument("overrides", nargs="*", metavar="section.field=value", help="override config values")
    sub.set_defaults(command=_tasks)


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "lanes, hours, GPU-hours, storage and cost of the fine-tunes, before a run"
    sub = commands.add_parser("plan", help=text, description=text)
    sub.add_argument("--config", required=True, help="YAML file of the study")
    sub.add_argument("--tasks", type=int, help="tasks in the pool (default: those of the config)")
    sub.add_argument("--tokens-per-second", type=float, help="of one lane (default: as measured in the study)")
    sub.add_argument("--example-tokens", type=float, help="mean tokens of an example (default: as measured)")
    sub.add_argument("--adapter-mib", type=float, help="size of an adapter (default: from the model)")
    sub.add_argument("--price", type=float, help="of a GPU per hour, or of a CPU where lanes have no GPU")
    sub.add_argument("overrides", nargs="*", metavar="section.field=value", help="override config values")
    sub.set_defaults(command=_plan)


def _add_solve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "the mixture of your own affinity matrix; without a balance, the mixtures of several in brief"
    sub = commands.add_parser("solve", help=text, description=text)
    add = sub.add_argument
    add("matrix", help="square matrix (.npy, .npz, .json, .parquet or text, names or none), or a study's folder")
    balance = sub.add_argument_group("the balance")
    balance.add_argument(
        "--tau", type=float, help="n * beta / lambda: 0 diversity, 1 the target, larger: representative"
    )
    balance.add_argument("--beta", type=float, help="with --lambda, in the place of --tau")
    balance.add_argument("--lambda", dest="lambda_", type=float, metavar="LAMBDA")
    reading = sub.add_argument_group("what the matrix is")
    reading.add_argument(
        "--distance",
        nargs="?",
        const="median",
        metavar="GAMMA",
        help="distances: S = exp(-GAMMA d); by default GAMMA = ln 2 / median distance",
    )
    reading.add_argument("--triangle", choices=["upper", "lower"], help="only this triangle is filled in")
    reading.add_argument("--diagonal", type=float, metavar="VALUE", help="in the place of a diagonal that is missing")
    limits = sub.add_argument_group("what the mixture has to keep to")
    limits.add_argument("--floor", type=float, default=0.0, help="part of its uniform share that every task keeps")
    for option, text in (
        ("--min", "the least share of a task, or of each task of a pattern such as 'math/*'"),
        ("--max", "the largest share"),
        ("--fix", "exactly this share"),
        ("--group-min", "the least share of all tasks of a pattern together"),
        ("--group-max", "the largest share of all of them together"),
    ):
        limits.add_argument(option, action="append", default=[], metavar="TASK=SHARE", help=text)
    limits.add_argument(
        "--target", metavar="FILE", help="the mixture at tau = 1: a mixture.json, or a CSV of task,weight"
    )
    limits.add_argument("--utility", metavar="FILE", help="CSV of task,utility in the place of the row sums")
    limits.add_argument("--max-tasks", type=int, metavar="K", help="the best K tasks")
    output = sub.add_argument_group("what is shown")
    output.add_argument("--examples", type=int, help="also integer counts that sum to this")
    output.add_argument("--path", action="store_true", help="every balance at which the mixture bends")
    output.add_argument(
        "--influence", action="store_true", help="what each task contributes, and what it costs to drop"
    )
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--csv", action="store_true")
    output.add_argument("--plot", metavar="FILE.html", help="the mixture over the balance, as a figure")
    sub.set_defaults(command=_solve)


def _add_explain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "why the tasks of a finished study have the shares that they have"
    sub = commands.add_parser("explain", help=text, description=text)
    sub.add_argument("study", help="folder of a finished study")
    sub.add_argument("tasks", nargs="*", metavar="task", help="names or patterns such as 'math/*'; default: all")
    sub.add_argument("--json", action="store_true", help="print all that is known of them as JSON")
    sub.set_defaults(command=_explain)


def _add_merge(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "the study's final adapter folded into its base model, with tokenizer and model card"
    sub = commands.add_parser("merge", help=text, description=text)
    sub.add_argument("study", help="folder of a finished study")
    sub.add_argument("folder", help="where the model goes")
    sub.set_defaults(command=_merge)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "write what a finished study decided for a trainer, from the study's own training examples"
    sub = commands.add_parser("export", help=text, description=text)
    sub.add_argument("trainer", metavar="format", help=f"{', '.join(FORMATS)}")
    sub.add_argument("study", help="folder of a finished study")
    sub.add_argument("folder", help="where the files go")
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "--recommended", dest="mixture", action="store_const", const="recommended", help="as recommended (default)"
    )
    which.add_argument("--chosen", dest="mixture", action="store_const", const="chosen", help="what the search chose")
    which.add_argument("--mixture", metavar="FILE", help="other weights: a mixture.json, or a CSV of task and weight")
    sub.add_argument("--examples", type=int, metavar="N", help="examples in all (default: as in mixture.json)")
    sub.add_argument("--seed", type=int, default=0, help="of the draw and the order (default 0)")
    sub.set_defaults(command=_export, mixture="recommended")


def _study(options: argparse.Namespace):  # type: ignore[no-untyped-def]  # Study is imported late
    from taskpgm_ray import Study, load_config

    return Study(load_config(options.config, options.overrides))


def _run(options: argparse.Namespace) -> None:
    _study(options).run()


def _validate(options: argparse.Namespace) -> None:
    from taskpgm_ray.config import load_config
    from taskpgm_ray.validate import validate

    for line in validate(load_config(options.config, options.overrides), cluster=options.cluster):
        print(line)


def _tasks(options: argparse.Namespace) -> None:
    import json

    from taskpgm_ray.config import load_config
    from taskpgm_ray.models import resolve
    from taskpgm_ray.storage import Storage
    from taskpgm_ray.tasks.preview import preview, print_preview

    config = load_config(options.config, options.overrides)
    shown = preview(config, resolve(config.model, Storage(config.storage)), max(options.examples, 0))
    if options.json:
        print(json.dumps(shown.as_json(), indent=2, ensure_ascii=False))
    else:
        print_preview(shown)


def _plan(options: argparse.Namespace) -> None:
    from rich.console import Console

    from taskpgm_ray.config import load_config
    from taskpgm_ray.forecast import plan_study, plan_table, speed_of
    from taskpgm_ray.tasks.sources import task_sources

    config = load_config(options.config, options.overrides)
    speed = speed_of(config, options.tokens_per_second, options.example_tokens, options.adapter_mib)
    tasks = options.tasks or len(task_sources(config.pool))
    Console().print(plan_table(plan_study(config, tasks, speed, options.price), speed, options.price))


def _partly(options: argparse.Namespace) -> None:
    """The stages up to the one that the command names."""
    from taskpgm_ray.report.bandwidths import bandwidth_rows, rich_table

    study = _study(options)
    with study.driving():
        trained = study.finetune(study.prepare())
        if options.last_stage == "score":
            study.score(*trained)
        elif options.last_stage == "affinity":
            found = study.affinities(*trained)
            if rows := bandwidth_rows(found, [task.facts.group for task in trained[1]]):
                study.console.print(rich_table(rows))


def _solve(options: argparse.Namespace) -> None:
    # Only numpy, scipy and numba may be imported here: this command works without the rest of the package's needs.
    from taskpgm_ray.solve_command import run_solve

    run_solve(options)


def _explain(options: argparse.Namespace) -> None:
    import json
    from fnmatch import fnmatchcase

    from taskpgm_ray.errors import InputError, MissingFileError
    from taskpgm_ray.storage import Storage

    try:
        insight = Storage(options.study).read_json("insight.json")
    except MissingFileError as error:
        raise InputError(f"{options.study} is not the folder of a finished study: {error}") from error
    if insight is None:
        raise InputError(
            "this study's mixture ties groups of tasks together; what single tasks contribute is not known"
        )
    patterns = options.tasks or ["*"]
    chosen = [row for row in insight["tasks"] if any(fnmatchcase(row["name"], pattern) for pattern in patterns)]
    if not chosen:
        names = ", ".join(row["name"] for row in insight["tasks"])
        raise InputError(f"none of the study's tasks is called {' or '.join(options.tasks)}; there are: {names}")
    if options.json:
        print(json.dumps(chosen, indent=2, ensure_ascii=False))
        return
    for row in sorted(chosen, key=lambda row: -row["weight"]):
        print(row["sentence"])
        if len(chosen) <= FULLY_EXPLAINED:
            for key, value in row.items():
                if key not in ("name", "sentence") and value not in (None, []):
                    print(f"    {key.replace('_', ' ')}: {_value(value)}")
    if insight["certainty"]:
        print(f"# {insight['certainty']}", file=sys.stderr)


def _value(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(" ".join(_value(part) for part in entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _merge(options: argparse.Namespace) -> None:
    from taskpgm_ray.export.merged import merge_final

    print(merge_final(options.study, options.folder))


def _export(options: argparse.Namespace) -> None:
    from taskpgm_ray.export import export, load_mixture

    study = options.study.removesuffix("/mixture.json").rstrip("/")
    if options.mixture in ("recommended", "chosen"):
        document = load_mixture(f"{study}/mixture.json")
        better = document.get("recommended", document.get("chosen"))
        if better != document.get("chosen"):
            other = f"{document['chosen']} was not shown to be better"
            told = (
                f"uses {better}: {other}" if options.mixture == "recommended" else f"uses the chosen mixture: {other}"
            )
            print(f"# {told} (--recommended | --chosen)", file=sys.stderr)
    for written in export(
        options.trainer,
        study,
        options.folder,
        mixture=options.mixture,
        examples=options.examples,
        seed=options.seed,
        tell=lambda text: print(f"# {text}", file=sys.stderr),
    ):
        print(written)


if __name__ == "__main__":
    sys.exit(main())
