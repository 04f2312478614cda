"""Task sources: which examples a spec yields, what identifies them, and how prompts are written."""

import json
import re
from importlib.metadata import distributions

import pytest

from taskpgm_ray.config import PoolConfig, TaskSpec
from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.sources import Example, Files, task_sources


def sources(*tasks, **changes):
    return task_sources(PoolConfig(tasks=list(tasks), **changes))


def one(tmp_path, records, **spec):
    """The source of a file of these records."""
    file = tmp_path / "task.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return Files.expand(TaskSpec(source=f"jsonl:{file}", **spec), str(file), [])[0]


def test_a_folder_is_one_task_a_file_in_the_order_of_names(tiny_pool):
    found = sources(f"jsonl:{tiny_pool}")
    assert [source.name for source in found] == ["copy", "parity", "reverse", "sum"]
    examples = found[3].read(1000, seed=0).examples
    assert len(examples) == 60
    turns, response = examples[0].turns, examples[0].response
    assert turns[0][0] == "user"
    left, right = turns[0][1].removesuffix(" =").split(" + ")
    assert response == str(int(left) + int(right))


def test_include_and_max_tasks_choose_and_order(tiny_pool):
    pool = f"jsonl:{tiny_pool}"
    assert [s.name for s in sources(pool, include=("sum", "copy"))] == ["sum", "copy"]
    assert [s.name for s in sources(pool, max_tasks=3)] == ["copy", "parity", "reverse"]


def test_names_may_be_given(tiny_pool):
    found = sources(
        {"source": f"jsonl:{tiny_pool}/sum.jsonl", "name": "addition"},
        {"source": "hf:org/glue", "subset": "sst2"},
        "hf:org/glue",
        "reasoning_gym:gcd",
    )
    assert [s.name for s in found] == ["addition", "glue-sst2", "glue", "gcd"]


def test_blank_lines_do_not_count(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('\n{"prompt": "p", "response": "r"}\r\n   \n{"prompt": "q", "response": "s"}')
    found = Files("a", (str(file),), TaskSpec(source="jsonl:a")).read(2, 0).examples
    assert found == [Example((("user", "p"),), "r"), Example((("user", "q"),), "s")]


def test_both_sides_keep_their_outer_white_space(tmp_path):
    (example,) = one(tmp_path, [{"prompt": " p ", "response": "\n r\t"}]).read(5, 0).examples
    assert example == Example((("user", " p "),), "\n r\t")


def test_text_of_any_script(tmp_path):
    (example,) = one(tmp_path, [{"prompt": "Grüße 😀", "response": "日本"}]).read(5, 0).examples
    assert (example.turns[0][1], example.response) == ("Grüße 😀", "日本")


def test_templates_over_columns(tmp_path):
    source = one(
        tmp_path,
        [{"question": "1+1?", "options": ["1", "2"], "label": 1}],
        prompt="Q: {question}\nA. {options[0]} B. {options[1]}\n{{x}}\nAnswer:",
        response="{label}",
    )
    (example,) = source.read(5, 0).examples
    assert example == Example((("user", "Q: 1+1?\nA. 1 B. 2\n{x}\nAnswer:"),), "1")


def test_a_template_names_an_absent_column_or_entry(tmp_path):
    with pytest.raises(DataError, match=r"line 1: no column 'answer'; it has: options\. Set the task's `response`"):
        one(tmp_path, [{"options": ["1"]}], prompt="{options[0]}", response="{answer}").read(5, 0)
    with pytest.raises(DataError, match=r"line 1: no column 'options\[7\]'; it has: options"):
        one(tmp_path, [{"options": ["1"]}], prompt="{options[7]}", response="{options[0]}").read(5, 0)


def test_a_conversation(tmp_path):
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", " b ")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (example,) = one(tmp_path, [record]).read(5, 0).examples
    assert example == Example(tuple(turns[:-1]), " b ")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "u"}, {"role": "assistant", "content": " "}],
        [{"role": "assistant", "content": "a"}, {"role": "user", "content": "u"}],
    ],
)
def test_a_conversation_ends_with_the_assistant(tmp_path, messages):
    reading = one(tmp_path, [{"messages": messages}]).read(5, 0)
    assert reading.rows == []
    assert re.search(r"line 1: `messages` must end with a non-empty assistant message", str(reading.bad[0]))


def test_a_template_wins_over_messages(tmp_path):
    record = {"messages": [], "q": "p", "a": "r"}
    (example,) = one(tmp_path, [record], prompt="{q}", response="{a}").read(5, 0).examples
    assert example == Example((("user", "p"),), "r")


def test_identity_is_the_content_and_the_templates(tmp_path, tiny_pool):
    (tmp_path / "elsewhere.jsonl").write_bytes((tiny_pool / "sum.jsonl").read_bytes())
    (tmp_path / "changed.jsonl").write_bytes((tiny_pool / "sum.jsonl").read_bytes()[:-1] + b" ")

    def identity(file, **spec):
        return Files.expand(TaskSpec(source=f"jsonl:{file}", **spec), str(file), [])[0].identity()

    original = identity(tiny_pool / "sum.jsonl")
    assert identity(tmp_path / "elsewhere.jsonl", name="other") == original
    assert identity(tmp_path / "changed.jsonl") != original
    assert identity(tiny_pool / "sum.jsonl", prompt="{prompt}") != original


def test_a_file_that_disappeared(tmp_path):
    source = one(tmp_path, [{"prompt": "p", "response": "r"}])
    (tmp_path / "task.jsonl").unlink()
    for attempt in (source.identity, lambda: source.read(1, 0)):
        with pytest.raises(DataError, match=r"task 'task': .*task\.jsonl cannot be read: .*No such file"):
            attempt()


def test_reasoning_gym_is_deterministic_in_its_seed():
    (first, _) = sources(
        {"source": "reasoning_gym:chain_sum", "params": {"max_terms": 3}, "prompt": "{question}\nAnswer:"},
        "reasoning_gym:gcd",
    )
    made = first.read(5, seed=1).examples
    assert made == first.read(5, seed=1).examples
    assert made != first.read(5, seed=2).examples
    assert len(made) == 5
    assert made[0].turns[0][1].endswith("\nAnswer:")
    assert made[0].response.lstrip("-").isdigit()


def test_reasoning_gym_without_its_solver_says_so_where_it_is_asked():
    """A machine without a C compiler has none, and all other generators."""
    if any(one.metadata["Name"] == "pycosat" for one in distributions()):
        pytest.skip("the solver is installed")
    puzzles, gcd = task_sources(PoolConfig(tasks=["reasoning_gym:zebra_puzzles", "reasoning_gym:gcd"]))
    with pytest.raises(DataError, match="pip install pycosat"):
        puzzles.read(2, seed=0)
    assert len(gcd.read(2, seed=0).rows) == 2


def test_reasoning_gym_identity_depends_on_the_parameters():
    a, b, c = sources(
        "reasoning_gym:gcd",
        {"source": "reasoning_gym:gcd", "name": "g2", "params": {"max_value": 5}},
        {"source": "reasoning_gym:gcd", "name": "g3"},
    )
    assert a.identity() == c.identity()
    assert a.identity() != b.identity()
    assert a.identity()["version"]


def test_reasoning_gym_that_is_not_installed(monkeypatch):
    from taskpgm_ray.tasks import generators as module

    def absent(name):
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", absent)
    with pytest.raises(DataError, match=r"reasoning_gym:gcd needs a package .*: pip install reasoning-gym"):
        sources("reasoning_gym:gcd", "reasoning_gym:lcm")[0].identity()


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub: `datasets.load_dataset` gives one set of ten records and refuses all else."""
    import datasets
    from datasets import Dataset, Features, Value

    calls = []
    features = Features({"q": Value("string"), "a": Value("string"), "x": Value("float32")})

    def load_dataset(name, subset, split, revision):
        calls.append((name, subset, split, revision))
        if name != "org/set":
            raise FileNotFoundError(f"no data set {name}")
        return Dataset.from_list([{"q": f"q{i}", "a": f"a{i}", "x": 3.8} for i in range(10)], features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_a_data_set_of_the_hub(hub):
    spec = {"source": "hf:org/set", "subset": "main", "split": "validation", "revision": "abc"}
    source, _ = sources({**spec, "prompt": "{q}", "response": "{a}"}, "reasoning_gym:gcd")
    four = source.read(4, seed=0).examples
    assert hub == [("org/set", "main", "validation", "abc")]
    assert len(four) == 4
    assert four == source.read(4, seed=0).examples
    assert four != source.read(4, seed=1).examples
    assert len(source.read(99, seed=0).examples) == 10
    assert source.identity()["revision"] == "abc"


def test_numbers_of_a_data_set_of_the_hub_are_as_it_has_them(hub):
    source, _ = sources({"source": "hf:org/set", "prompt": "{q}", "response": "{x}"}, "reasoning_gym:gcd")
    assert {example.response for example in source.read(4, 0).examples} == {"3.8"}


def test_a_data_set_that_is_not_there(hub):
    source, _ = sources("hf:org/other", "reasoning_gym:gcd")
    with pytest.raises(DataError, match=r"hf:org/other: cannot be loaded \(FileNotFoundError: no data set org/other\)"):
        source.read(4, 0)


def test_a_record_of_the_hub_without_the_column(hub):
    source, _ = sources({"source": "hf:org/set", "prompt": "{q}"}, "reasoning_gym:gcd")
    with pytest.raises(DataError, match=r"hf:org/set, record 0: no column 'response'; it has: a, q, x"):
        source.read(4, 0)
