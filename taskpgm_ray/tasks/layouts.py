"""Layouts: how a record holds prompt and response, recognised from its columns, and made an example.

A layout has two columns or groups of columns. Each record is recognised by itself, so that a file may mix layouts;
what was recognised is counted in the reading, and shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskpgm_ray.config import TaskSpec
from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.conversations import Conversation, NoExample, answered, conversation, from_inst, is_messages
from taskpgm_ray.tasks.example import BadRow, Example, Reading, Row
from taskpgm_ray.tasks.unread import unread
from taskpgm_ray.tasks.values import ABSENT, Template, as_text, chosen, is_empty

Record = dict[str, Any]
COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt/response": ("prompt", "response"),
    "prompt/completion": ("prompt", "completion"),
    "definition/input/output": ("Definition", "input", "output"),
    "instruction/input/output": ("instruction", "output"),
    "question/answer": ("question", "answer"),
    "inputs/targets": ("inputs", "targets"),
    "input/output": ("input", "output"),
    "text": ("text",),
}
"""Layout -> the columns that a record of it has; the first that fits is taken."""
SPOKEN = ("messages", "sharegpt", "text")
"""Layouts with the whole conversation in one column."""
DEFINED = ("definition/input/output", "inputs/targets", "input/output")
"""Layouts of Super-NaturalInstructions, which may have a definition of the task in a column of its own."""
BESIDE: dict[str, tuple[str, ...]] = {
    "messages": ("system", "tools"),
    "sharegpt": ("system", "tools"),
    "text": (),
    "prompt/response": ("system",),
    "prompt/completion": ("system",),
    "definition/input/output": ("system",),
    "instruction/input/output": ("input", "history", "system", "tools"),
    "question/answer": ("system",),
    "inputs/targets": ("Definition", "definition", "system"),
    "input/output": ("Definition", "definition", "system"),
}
"""Layout -> the columns that are read as well where a record has them."""
TEMPLATES = "templates"
"""Shown as the layout of a task with templates."""
UNKNOWN = "unknown"


def recognise(record: Record) -> str | None:
    """The layout of one record: the first whose columns all say something, else the first whose columns are there."""
    if "[INST]" not in str(record.get("text") or ""):
        record = {column: value for column, value in record.items() if column != "text"}
    for accept in (lambda column: not is_empty(record.get(column)), record.__contains__):
        for layout, columns in COLUMNS.items():
            if all(map(accept, columns)):
                return layout
    return None


def read_records(records: Sequence[tuple[str, Record]], size: int, spec: TaskSpec, seed: int) -> Reading:
    """Examples of these records, by the spec's templates and layout.

    Args:
        records: Each with where it stands: file and line.
        size: Rows that the source has.
        spec: The task's templates, layout and choice among answers.
        seed: Decides random answers.

    Raises:
        DataError: No record can be used because a column is not there or the layout is unknown, a template does not
            fit, or a list of answers needs a choice.
    """
    reading = Reading(size)
    reader = _Reader(records, spec, seed)
    unknown = 0
    for where, record in records:
        layout = reader.layout(record)
        reading.layouts[_shown(layout, spec)] += 1
        unknown += layout is None
        reading.unread.update(reader.unread(record, layout))
        try:
            reading.rows += [Row(where, example) for example in reader.examples(record, layout, where)]
        except (NoExample, UnicodeDecodeError) as error:
            reading.bad.append(BadRow(where, str(error)))
    if unknown == len(reading.bad) == len(records) > 0:
        raise DataError(f"{reading.bad[0]}, or name the columns as a layout has them: {', '.join(COLUMNS)}")
    return reading


def _shown(layout: str | None, spec: TaskSpec) -> str:
    """The layout as a reader is told of it; with a template for one side it counts for the other."""
    if layout in (None, TEMPLATES) or not (spec.prompt or spec.response):
        return layout or (TEMPLATES if spec.prompt or spec.response else UNKNOWN)
    return f"{layout}, own {'prompt' if spec.prompt else 'response'}"


class _Reader:
    """Makes examples of the records of one task."""

    def __init__(self, records: Sequence[tuple[str, Record]], spec: TaskSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.prompt = None if spec.prompt is None else Template(spec.prompt, "prompt")
        self.response = None if spec.response is None else Template(spec.response, "response")
        for template in (self.prompt, self.response):
            if template:
                template.check(records)

    def layout(self, record: Record) -> str | None:
        """How the record is read."""
        if self.prompt and self.response:
            return TEMPLATES
        return self.spec.layout or recognise(record)

    def unread(self, record: Record, layout: str | None) -> list[str]:
        """Columns that belong into the prompt perhaps; whoever wrote a template for it has decided."""
        if self.prompt or layout not in COLUMNS:
            return []
        read, named = (*COLUMNS[layout], *BESIDE[layout]), self.spec.response or ""
        return [name for name in unread(record, read) if f"{{{name}" not in named]

    def examples(self, record: Record, layout: str | None, where: str) -> list[Example]:
        """The record's example, or one for each of its answers.

        Raises:
            NoExample: The record cannot be used.
            DataError: The whole task cannot, see `read_records`.
        """
        if layout in SPOKEN:
            prompt, answer = _spoken(record, layout, whole=self.response is not None)
        else:
            prompt, answer = self._columns(record, layout)
        if self.prompt:
            text = self.prompt.render(record, where)
            if not text.strip():
                raise NoExample("the prompt is empty")
            prompt = Conversation(({"role": "user", "content": text},))
        if self.response:
            answer = self.response.sole(record)
            answer = self.response.render(record, where) if answer is ABSENT else answer
        answers = chosen(answer, self.spec.answers, f"{self.seed} {prompt.messages}", where)
        found = [_answered(prompt, one, number) for number, one in enumerate(answers)]
        for example in found:
            _check_characters(example)
        return found

    def _columns(self, record: Record, layout: str | None) -> tuple[Conversation, Any]:
        """The sides for which there is no template, out of the layout's columns; the others are nothing."""
        *asked, answer = COLUMNS.get(layout or "", ("prompt", "response"))
        wanted = [*([] if self.prompt else asked), *([] if self.response else [answer])]
        absent = [column for column in wanted if column not in record and f"{column}_pretokenized" not in record]
        # In this layout the input may be absent.
        if absent and not (layout == "definition/input/output" and absent == ["input"]):
            have = ", ".join(sorted(map(str, record)))
            side = "response" if absent[0] == answer else "prompt"
            raise NoExample(f"no column {absent[0]!r}; it has: {have}. Set the task's `{side}` template")
        if layout == "prompt/completion" and not self.response and isinstance(record.get("label"), bool):
            raise NoExample(
                "a `completion` with a `label` of true or false is one that is wanted or not (TRL's KTO); keep the "
                "rows that are wanted, without the column"
            )
        prompt = Conversation(()) if self.prompt else _asked(record, layout or "prompt/response")
        return prompt, None if self.response else _text_of(record, answer)


def _spoken(record: Record, layout: str, whole: bool) -> tuple[Conversation, Any]:
    """A conversation as (prompt, list of the last message); ``whole``: it need not end with the assistant."""
    column = COLUMNS[layout][0]
    if layout == "text":
        all_ = from_inst(record.get(column))
    else:
        all_ = conversation(record.get(column), f"`{column}`", record.get("system"), record.get("tools"))
    if not whole:
        all_.example(f"`{column}`")  # refuses what is none
    elif not (all_.messages and all_.messages[-1]["role"] == "assistant"):
        return all_, None
    return Conversation(all_.messages[:-1], all_.tools), [*all_.messages[-1:]]


def _asked(record: Record, layout: str) -> Conversation:
    """The prompt of a record with columns."""
    first = "input" if layout == "definition/input/output" else COLUMNS[layout][0]
    system, said, tools = record.get("system"), list[dict[str, Any]](), None
    if layout == "instruction/input/output":
        pieces = [record.get("instruction"), record.get("input")]
        said, tools = _history(record), record.get("tools")
    else:
        asked = _text_of(record, first)
        definition = record.get("Definition", record.get("definition")) if layout in DEFINED else None
        if is_messages(asked) and is_empty(definition):
            return conversation(asked, f"`{first}`", system, record.get("tools"))
        pieces = [*definition, asked] if isinstance(definition, list) else [definition, asked]
    texts = [as_text(piece) for piece in pieces]
    prompt = "\n\n".join(text for text in texts if text.strip())
    if not prompt.strip():
        raise NoExample("the prompt is empty")
    return conversation([*said, {"role": "user", "content": prompt}], "`history`", system, tools)


def _history(record: Record) -> list[dict[str, Any]]:
    """The earlier turns of Alpaca's layout as LLaMA-Factory extends it."""
    history = record.get("history") or []
    if not (isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)):
        raise NoExample("`history` must be a list of [user, assistant]")
    said = []
    for user, assistant in history:
        said += [{"role": "user", "content": as_text(user)}, {"role": "assistant", "content": as_text(assistant)}]
    return said


def _text_of(record: Record, column: str) -> Any:
    """A column's value; of FLAN's and P3's columns, which may hold token ids, the text beside them."""
    value = record.get(column)
    ids = isinstance(value, list) and bool(value) and all(isinstance(v, int) for v in value)
    if (ids or is_empty(value)) and isinstance(record.get(f"{column}_pretokenized"), str):
        return record[f"{column}_pretokenized"]
    return value


def _answered(prompt: Conversation, answer: Any, number: int) -> Example:
    """The example with this answer: text, a value, or the list of messages of a conversational completion."""
    if is_messages(answer):
        return answered(prompt, answer).example("`prompt` and `completion` together")
    text = as_text(answer)
    if not text.strip():
        raise NoExample("the response is empty")
    made = prompt.example("the conversation", text)
    return Example(made.turns, made.response, made.chat, number) if number else made


def _check_characters(example: Example) -> None:
    try:
        "".join([*(content for _, content in example.turns), example.response]).encode()
    except UnicodeEncodeError:
        # In JSON, \ud800 to \udfff may stand alone, but then they are no character and cannot be tokenised.
        raise NoExample("half of a surrogate pair, which is no character; re-encode the file") from None
