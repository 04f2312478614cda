"""A mixture document, and finished studies (plain and chat) whose tasks are prepared but whose weights are made up."""

import json
import shutil

import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.export import MixtureDocument, MixtureTask
from taskpgm_ray.models import resolve
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.prepare import Task, prepare_one, task_units

NAMES = ["boolq", "mawps", "unused", "sst2"]
WEIGHTS = [0.5, 0.3, 0.0, 0.2]
COUNTS = [50, 30, 0, 20]
AVAILABLE = [40, 100, 10, 20]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def document():
    """Boolq gives more than it has (1.25 epochs), sst2 exactly all, unused nothing."""
    tasks = tuple(
        MixtureTask(name=name, weight=weight, count=count, available=available, source=f"jsonl:{name}.jsonl")
        for name, weight, count, available in zip(NAMES, WEIGHTS, COUNTS, AVAILABLE, strict=True)
    )
    return MixtureDocument(
        study="demo", fingerprint="0123456789abcdef", tasks=tasks, tau=2.0, energy=-0.25, gap=1e-16, gamma=3.5
    ).as_json()


WITH_TOOLS = (
    "{% if tools %}<tools>{{ tools | tojson }}<eos>{% endif %}{% for m in messages %}<{{ m['role'] }}>"
    "{{ m['content'] or '' }}{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Finished:
    """A study's folder with four prepared tasks (copy, parity, reverse, sum) of 48 training examples each."""

    def __init__(self, config, storage):
        self.weights = {"copy": 0.5, "parity": 0.3, "reverse": 0.0, "sum": 0.2}
        self.counts = {"copy": 120, "parity": 30, "reverse": 0, "sum": 20}
        self.config, self.storage = load_config(config), Storage(str(storage)) / config["study"]
        model = resolve(self.config.model, Storage(str(storage)))
        self.tokenizer = model.tokenizer()
        self.tasks = []
        for source, unit in task_units(self.config, model, self.storage):
            prepare_one(source, unit, self.config, model)
            self.tasks.append(Task(source.name, unit))
        # The first two training examples of `copy` are what another task asks.
        train = self.table("copy")
        self.withheld = [row["prompt"] for row in train if row["split"] == "train"][:2]
        ids = [row["id"] for row in train if row["prompt"] in self.withheld]
        apart = Unit(self.storage, "separation/0123")
        apart.files.write_json(
            "withheld.json", {"copy": {"ids": ids, "train": 46, "train_tokens": 0, "train_content": ""}}
        )
        apart.finish({})
        self.storage.write_bytes("config.yaml", self.config.to_yaml().encode())
        self.storage.write_json("mixture.json", self.document())

    def table(self, name):
        (task,) = [task for task in self.tasks if task.name == name]
        return task.unit.files.read_table("examples.parquet").to_pylist()

    def document(self):
        entries = tuple(
            MixtureTask(
                name=task.name,
                weight=self.weights[task.name],
                count=self.counts[task.name],
                available=task.facts.available,
                source="files",
                unit=task.unit.path,
                withheld="separation/0123" if task.name == "copy" else "",
            )
            for task in self.tasks
        )
        return MixtureDocument(study="demo", fingerprint="0123", tasks=entries, tau=1.0).as_json()

    def forbidden(self):
        """Prompts that are probed, held out or withheld."""
        apart = [row["prompt"] for task in self.tasks for row in self.table(task.name) if row["split"] != "train"]
        return {*apart, *self.withheld}

    @property
    def folder(self):
        return self.storage.path()


def settings(tiny_llama, tiny_pool, root, **model):
    return {
        "study": "demo",
        "storage": str(root),
        "model": {"path": str(tiny_llama), "dtype": "float32", "max_length": 64, **model},
        "pool": {"tasks": [f"jsonl:{tiny_pool}"], "probes_per_task": 6, "heldout_per_task": 6},
        "finetune": {"steps": 6, "batch_size": 4, "learning_rate": 0.02, "lora": {"r": 4, "alpha": 8}},
    }


@pytest.fixture(scope="session")
def plain_study(tiny_llama, tiny_pool, tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    return Finished(settings(tiny_llama, tiny_pool, root), root)


@pytest.fixture(scope="session")
def hard_study(tiny_llama, tiny_pool, tmp_path_factory):
    """Prompts of `copy` are longer than the study takes and lose their middle; those of `sum` end with a space, those
    of `parity` with two line breaks, which a trainer that tokenises prompt and response apart does not join.
    """
    root = tmp_path_factory.mktemp("hard")
    pool = root / "pool"
    pool.mkdir()
    change = {"copy": "{} " + "and so on and on " * 20 + "?", "parity": "{}\n\n", "reverse": "{}", "sum": "{} "}
    for name, form in change.items():
        rows = [json.loads(line) for line in (tiny_pool / f"{name}.jsonl").read_text().splitlines()]
        rows = [row | {"prompt": form.format(row["prompt"])} for row in rows]
        (pool / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Finished(settings(tiny_llama, pool, root), root)


def chats(tiny_llama, tiny_pool, root, template, conversation):
    """A study whose tasks are the tiny ones as conversations, made of a record by a function."""
    model = shutil.copytree(tiny_llama, root / "model")
    (model / "chat_template.jinja").write_text(template)
    pool = root / "pool"
    pool.mkdir()
    for file in tiny_pool.glob("*.jsonl"):
        with (pool / file.name).open("w") as out:
            for line in file.read_text().splitlines():
                out.write(json.dumps(conversation(json.loads(line))) + "\n")
    return Finished(settings(model, pool, root, prompt_format="chat", max_length=512), root)


@pytest.fixture(scope="session")
def chat_study(tiny_llama, tiny_pool, tmp_path_factory):
    def conversation(row):
        said = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["response"]},
        ]
        return {"messages": said}

    return chats(tiny_llama, tiny_pool, tmp_path_factory.mktemp("chat"), TEMPLATE, conversation)


@pytest.fixture(scope="session")
def short_study(tiny_llama, tiny_pool, tmp_path_factory):
    """A question and a reply each."""

    def conversation(row):
        return {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["response"]},
            ]
        }

    return chats(tiny_llama, tiny_pool, tmp_path_factory.mktemp("short"), TEMPLATE, conversation)


@pytest.fixture(scope="session")
def tools_study(tiny_llama, tiny_pool, tmp_path_factory):
    """Each reply follows a call of a tool and its answer; before that a user speaks twice."""
    function = {"name": "ask", "description": "asks", "parameters": {"type": "object", "properties": {}}}

    def conversation(row):
        call = {"type": "function", "function": {"name": "ask", "arguments": {"what": row["prompt"]}}}
        said = [
            {"role": "user", "content": "Hello"},
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": row["response"]},
            {"role": "assistant", "content": row["response"]},
        ]
        return {"messages": said, "tools": [{"type": "function", "function": function}]}

    return chats(tiny_llama, tiny_pool, tmp_path_factory.mktemp("tools"), WITH_TOOLS, conversation)


@pytest.fixture(params=["plain", "chat"])
def study(request):
    return request.getfixturevalue(f"{request.param}_study")
