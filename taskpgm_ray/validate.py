"""Everything that can be found wrong with a study before it costs anything: no Ray, no engine, no training.

`taskpgm_ray.runtime.preflight` holds the checks that take milliseconds, `validate` all of them: it reads the tasks, the
model's own configuration and the evaluation data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from taskpgm_ray.agreement import WHOLE, Agreement
from taskpgm_ray.config import GIVEN, EvaluationConfig, StudyConfig
from taskpgm_ray.errors import HubUnreachableError, ModelError, TaskPGMError, raise_all
from taskpgm_ray.evaluation import harness, prepare, task_files
from taskpgm_ray.evaluation.items import POOL
from taskpgm_ray.evaluation.splits import Split
from taskpgm_ray.evaluation.statistics import FEW_ITEMS, few_items
from taskpgm_ray.mixture import read_given
from taskpgm_ray.models import resolve
from taskpgm_ray.runtime.preflight import preflight
from taskpgm_ray.scoring.vllm_registry import check_served
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks import unread
from taskpgm_ray.tasks.chat import require_template
from taskpgm_ray.tasks.conversations import NoExample
from taskpgm_ray.tasks.example import SHOWN, BadRow, Example, check_bad, few
from taskpgm_ray.tasks.generators import ReasoningGym
from taskpgm_ray.tasks.sources import TaskSource, data_set, is_here, survey
from taskpgm_ray.tasks.split import too_few
from taskpgm_ray.tasks.tokens import bare, encode, prompt_text

GENERATED = 8
"""Problems that are drawn from a generator to see that it works."""


class _Findings:
    """What was checked and found fine, and what is wrong: a check that fails does not keep the next from running."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.problems: list[TaskPGMError] = []

    @contextmanager
    def check(self) -> Iterator[None]:
        """Around one check: an error of it is one of the problems, and what follows is checked all the same."""
        try:
            yield
        except TaskPGMError as error:
            self.problems.append(error)


def validate(config: StudyConfig, cluster: bool = False) -> list[str]:
    """Check a study's config against the machine, the storage, the model, the tasks and the evaluation data.

    Data sets of the hub are not downloaded, and a packaged model is not converted, so what is inside them is checked
    when the study prepares them.

    Args:
        config: The study.
        cluster: It is to run elsewhere: this machine's CPUs, GPUs and packages, and its access to the storage, say
            nothing, and a hub that cannot be reached from here is no problem.

    Returns:
        One line for each thing that was checked and found fine.

    Raises:
        TaskPGMError: What is wrong, where, and what to do about it; `Problems` when it is more than one thing.
    """
    found = _Findings()
    root = Storage(config.storage)
    if cluster:
        found.lines.append("scorer, resources, storage: the cluster's own, not checked from here")
    else:
        with found.check():
            found.lines += preflight(config)
        with found.check():
            (root / config.study).check_writable()
            found.lines.append(f"storage: {config.storage} can be written")
    proxy = config.of_proxy()
    if proxy is not None:
        _check_proxy(proxy, root, cluster, found)
    tokenizer = _check_model(config, root, cluster, found)
    agreement = tokenizer and Agreement(tokenizer, config.model.prompt_format, config.pool.separator)
    with found.check():
        found.lines += _check_tasks(config, agreement)
    if config.search.balances:
        with found.check():
            found.lines += _check_evaluation(config, agreement)
    raise_all(found.problems)
    if agreement:
        found.lines.append(
            f"tokens: the same for training, evaluation and export in {agreement.compared} samples of tasks and "
            "benchmarks"
        )
    return found.lines


def _check_proxy(config: StudyConfig, root: Storage, cluster: bool, found: _Findings) -> None:
    """The model of the affinities, its lanes, and the tasks as it reads them; ``config`` is `StudyConfig.of_proxy`."""
    first = len(found.lines)
    if not cluster:
        with found.check():
            found.lines += preflight(config)
    tokenizer = _check_model(config, root, cluster, found)
    with found.check():
        found.lines += _check_tasks(
            config, tokenizer and Agreement(tokenizer, config.model.prompt_format, config.pool.separator)
        )
    found.lines[first:] = [f"proxy: {line}" for line in found.lines[first:]]


def _check_model(config: StudyConfig, root: Storage, cluster: bool, found: _Findings) -> Any:
    """The model's own limits against what the config asks of it.

    Returns:
        Its tokenizer, or ``None`` where there is none to be had.
    """
    try:
        model = resolve(config.model, root)
    except TaskPGMError as error:
        if cluster and isinstance(error, HubUnreachableError):
            found.lines.append(
                f"model: {config.model.path} is on the hub, which cannot be reached from here: its window, vocabulary, "
                "layers and tokenizer are not checked"
            )
        else:
            found.problems.append(error)
        return None
    found.lines.append(f"model: {config.model.path} ({model.fingerprint})")
    if model.shared is not None and (cluster or not Unit(model.shared, model.source).done()):
        found.lines.append("tokens: not compared, a study converts the packaged model when it first runs")
        return None
    tokenizer = None
    with found.check():
        loaded = model.tokenizer()
        if config.model.prompt_format == "chat":
            require_template(loaded, config.model.path)
        tokenizer = loaded
    with found.check():
        window, own = model.window(config.model.max_length), model.text_config()
        found.problems += _exceeded(config, window, own, tokenizer)
    with found.check():
        check_served(config, model)
    with found.check():
        lora = config.finetune.adapter
        found.lines.append(
            "trained: all weights" if lora is None else f"adapters: on {', '.join(model.adapted_modules(lora))}"
        )
    return tokenizer


def _exceeded(config: StudyConfig, window: int, own: Any, tokenizer: Any) -> Iterator[ModelError]:
    """What goes beyond the model's window [tokens] or its vocabulary; ``own`` is the text part of its configuration."""
    name = config.model.path
    if window < config.model.max_length:
        yield ModelError(f"model.max_length is {config.model.max_length}, but {name} ends at {window} tokens")
    size = config.scoring.support
    if own.vocab_size < size:
        yield ModelError(
            f"scoring.top_k + answer_tokens + the gold token = {size}, but the vocabulary of {name} has "
            f"only {own.vocab_size} tokens; lower top_k"
        )
    if tokenizer is not None:
        token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        if largest >= own.vocab_size:
            yield ModelError(
                f"the tokenizer of {name} gives ids up to {largest} ({token!r}), but the model has only "
                f"{own.vocab_size} embeddings (vocab_size in its config.json): training would read beyond them; take "
                "the tokenizer that belongs to these weights, or resize the embeddings and save the model"
            )


def _check_tasks(config: StudyConfig, agreement: Agreement | None) -> list[str]:
    sources, notes = survey(config.pool)
    read, bad, found = 0, list[BadRow](), _Findings()
    for source in sources:
        kept = config.pool.probes_per_task + config.pool.heldout_per_task
        with found.check():
            if not is_here(source):
                source.identity()
            elif isinstance(data_set(source), ReasoningGym):
                source.identity()
                _check_examples(source, config, agreement, min(GENERATED, config.pool.max_examples), 0)
            else:
                examples, skipped, told = _check_examples(source, config, agreement, config.pool.max_examples, kept)
                read, bad, notes = read + examples, bad + skipped, notes + [told] * bool(told)
    with found.check():
        for baseline in config.search.baselines if config.search.balances else ():
            if baseline.startswith(GIVEN):
                read_given(baseline.removeprefix(GIVEN), [source.name for source in sources])
    raise_all(found.problems)
    lines = [f"tasks: {len(sources)}, {', '.join(source.name for source in sources)}", *(f"note: {n}" for n in notes)]
    if read:
        lines.append(f"examples: {read} of files read, in each task more than the probes")
    if bad:
        lines.append(f"bad rows: {len(bad)} that are skipped: {few(bad)}")
    if remote := sum(not is_here(source) for source in sources):
        lines.append(f"hub data sets: {remote}, not downloaded and so not checked")
    return lines


def _check_examples(
    source: TaskSource, config: StudyConfig, agreement: Agreement | None, limit: int, probes: int
) -> tuple[int, list[BadRow], str]:
    """Read a task's examples, and tokenise until more different ones fit than are kept as probes.

    Of the others only those are tokenised whose responses may be too long.

    Returns:
        How many examples were read, the rows that are none, and what is told of columns that are not read.
    """
    different: set[str] = set()
    reading = source.read(limit, config.seed)
    bad, form = list(reading.bad), config.model
    frame = _frame(config, agreement)
    for row in reading.rows:
        where = f"task {source.name!r}, {row.where}"
        prompt_text(row.example, form.prompt_format, where)
        if agreement is None:
            different.add(fingerprint(*row.example.prompt_key()))
            continue
        try:
            # A token is a byte or more; the end, and what the format puts around it, come on top.
            if len(different) <= probes or len(row.example.response.encode()) + frame > form.max_length:
                encode(
                    row.example,
                    agreement.tokenizer,
                    form.prompt_format,
                    form.max_length,
                    where,
                    config.pool.separator,
                )
                different.add(fingerprint(*row.example.prompt_key()))
            else:
                bare(row.example, agreement.tokenizer)
        except NoExample as error:
            bad.append(BadRow(row.where, str(error)))
    rows = len(reading.rows) + len(reading.bad)
    check_bad(source.name, bad, rows, config.pool.bad_rows == "stop", config.pool.max_bad_share)
    if len(different) <= probes:
        dropped = "repeats and responses longer than model.max_length do not count"
        raise too_few(source.name, len(different), len(reading.rows), probes, dropped)
    if agreement is not None:
        agreement.examples(source.name, reading.rows)
    return rows, bad, unread.note(source.name, reading.unread, reading.layout)


def _frame(config: StudyConfig, agreement: Agreement | None) -> int:
    """Tokens of the shortest example, its prompt and response included."""
    if agreement is None:
        return 0
    shortest = Example((("user", "a"),), "a")
    try:
        encoded = encode(
            shortest, agreement.tokenizer, config.model.prompt_format, WHOLE, "the model", config.pool.separator
        )
    except NoExample:  # a template that wants more than a question says so for every row
        return config.model.max_length
    return len(encoded.prompt) + len(encoded.response)


def _check_evaluation(config: StudyConfig, agreement: Agreement | None) -> list[str]:
    """Draw the two splits into a folder that is thrown away; of the hub's data sets only the names are known."""
    evaluation, lines = config.evaluation, []
    for entry in filter(task_files.means_file, evaluation.lm_eval):
        task_files.check(entry)
    here = tuple(entry for entry in evaluation.lm_eval if task_files.is_local(entry))
    absent = [harness.benchmark(entry) for entry in evaluation.lm_eval if entry not in here]
    # What is a single task for all that is known from here.
    counts = {(name, name): evaluation.report_items_per_task for name in absent}
    if absent:
        lines.append("evaluation: lm-eval's tasks by name, not loaded and so not checked")
    hub = evaluation.data == "hub" and (evaluation.mmlu or evaluation.bbh)
    if hub:
        lines.append("evaluation: data sets of the hub, not downloaded and so not checked")
    if evaluation.own_tasks:
        lines.append("evaluation: the pool's own held-out examples")
    # Of these only the weight is known.
    unread = [name for name in ("mmlu", "bbh") if hub and getattr(evaluation, name)]
    weights = {
        name: weight for name, weight in evaluation.weights.items() if name.partition("/")[0] not in (*absent, *unread)
    }
    own = {"lm_eval": here, "weights": weights} | ({"mmlu": False, "bbh": False} if hub else {})
    read = evaluation.model_copy(update=own)
    counts |= {(name, ""): FEW_ITEMS for name in (*unread, *([POOL] if evaluation.own_tasks else []))}
    if lines and not (read.mmlu or read.bbh or here):
        return [*lines, *_few(counts, evaluation)]
    with tempfile.TemporaryDirectory() as folder:
        sets = prepare(read, config.seed, Storage(folder), lift=config.search.measures_lift)
        search, report = (len(split.manifest()["items"]) for split in (sets.search, sets.report))
        inside = sets.report.manifest()["counts"]
        counts |= {(name, task): n for name, tasks in inside.items() for task, n in tasks.items()}
        if agreement:
            _check_requests(read, sets.search, agreement)
    where = ", ".join([*([evaluation.data] if read.mmlu or read.bbh else []), *here])
    lines.append(f"evaluation: {search} items to search with and {report} others to report on, from {where}")
    return [*lines, *_few(counts, evaluation)]


def _few(counts: dict[tuple[str, str], int], evaluation: EvaluationConfig) -> list[str]:
    """A line where few items of the report split have much of the score; ``counts`` by benchmark and task."""
    found = few_items(counts, evaluation.weights)
    if not found:
        return []
    named = [
        f"{counts[name, task]} of {name if name == task else f'{name}/{task}'} have {share:.0%} of the score"
        for (name, task), share in list(found.items())[:SHOWN]
    ]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    fields = " or ".join(sorted({"subject" if name == "mmlu" else "task" for name, _ in found}))
    return [
        f"note: few report items weigh much, so that little can be shown: {', '.join(named)}{more}; raise "
        f"evaluation.report_items_per_{fields}, or give them less weight (evaluation.weights)"
    ]


def _check_requests(evaluation: EvaluationConfig, split: Split, agreement: Agreement) -> None:
    # lm-eval takes seconds to import.
    from taskpgm_ray.evaluation.tasks import build_tasks

    tasks = build_tasks(
        split,
        mmlu_shots=evaluation.shots("mmlu"),
        bbh_shots=evaluation.shots("bbh"),
        chat=agreement.prompt_format == "chat",
        bbh_answers=evaluation.bbh_answers,
        lm_eval=evaluation.lm_eval,
    )
    agreement.requests(tasks.values())
