"""Layouts: each is recognised by its columns, and gives the example that it means."""

import json

import pytest

from taskpgm_ray.config import Layout, TaskSpec
from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.example import Example
from taskpgm_ray.tasks.layouts import BESIDE, COLUMNS, read_records, recognise

TALK = [("user", "How long?"), ("assistant", "2 min")]
MESSAGES = [{"role": role, "content": content} for role, content in TALK]
SHARED = [{"from": "human", "value": "How long?"}, {"from": "gpt", "value": "2 min"}]


def reading(*records, seed=0, **spec):
    places = [(f"f, line {i}", record) for i, record in enumerate(records, start=1)]
    return read_records(places, len(records), TaskSpec(source="files:x", **spec), seed)


def example(record, **spec):
    (found,) = reading(record, **spec).examples
    return found


def why(record, **spec):
    """Why a record is none, beside one that is good."""
    (bad,) = reading({"prompt": "p", "response": "r"}, record, **spec).bad
    assert bad.where == "f, line 2"
    return bad.why


def test_every_layout_of_the_config_is_known():
    assert set(COLUMNS) == set(Layout.__args__)


@pytest.mark.parametrize(
    ("record", "layout", "prompt", "response"),
    [
        ({"prompt": "p", "response": "r"}, "prompt/response", "p", "r"),
        ({"prompt": "p", "completion": " c"}, "prompt/completion", "p", " c"),
        ({"instruction": "i", "input": "x", "output": "o"}, "instruction/input/output", "i\n\nx", "o"),
        ({"instruction": "i", "input": "", "output": "o"}, "instruction/input/output", "i", "o"),
        ({"instruction": "i", "input": None, "output": "o"}, "instruction/input/output", "i", "o"),
        ({"instruction": "i", "output": "o", "text": "i o"}, "instruction/input/output", "i", "o"),
        (
            {"instruction": "i", "input": {"x": True}, "output": [1]},
            "instruction/input/output", 'i\n\n{"x": true}', "[1]",
        ),
        ({"Definition": ["d", "e"], "input": "x", "output": ["o"]}, "definition/input/output", "d\n\ne\n\nx", "o"),
        ({"question": "q", "answer": 3, "id": 1}, "question/answer", "q", "3"),
        ({"inputs": "i", "targets": "t"}, "inputs/targets", "i", "t"),
        (
            {"inputs": "i", "targets": "t", "inputs_pretokenized": "I", "targets_pretokenized": "T"},
            "inputs/targets", "i", "t",
        ),
        (
            {"inputs": [3, 1], "targets": [7], "inputs_pretokenized": "I\n", "targets_pretokenized": "\nT"},
            "inputs/targets", "I\n", "\nT",
        ),
        ({"input": "x", "output": "o"}, "input/output", "x", "o"),
        ({"definition": "d", "inputs": "x", "targets": "t"}, "inputs/targets", "d\n\nx", "t"),
        ({"definition": ["d", "e"], "input": "x", "output": "o"}, "input/output", "d\n\ne\n\nx", "o"),
        ({"messages": MESSAGES}, "messages", "How long?", "2 min"),
        ({"messages": SHARED}, "messages", "How long?", "2 min"),
        ({"messages": [{"role": "prompter", "content": "p"}, MESSAGES[1]]}, "messages", "p", "2 min"),
        ({"conversations": SHARED}, "sharegpt", "How long?", "2 min"),
        ({"conversations": MESSAGES}, "sharegpt", "How long?", "2 min"),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, "prompt/completion", "How long?", "2 min"),
        ({"text": "<s>[INST] How long? [/INST] 2 min </s>"}, "text", "How long?", "2 min"),
        ({"prompt": "p", "response": "r", "messages": None}, "prompt/response", "p", "r"),
    ],
)  # fmt: skip
def test_layouts(record, layout, prompt, response):
    assert recognise(record) == layout
    found = example(record)
    assert found == Example((("user", prompt),), response)
    assert reading(record).layout == layout


def test_a_file_may_mix_layouts_and_shows_it():
    found = reading({"messages": MESSAGES}, {"messages": MESSAGES}, {"question": "q", "answer": "a"})
    assert found.layout == "messages (2), question/answer (1)"
    assert len(found.rows) == 3


def test_a_given_layout_wins():
    record = {"prompt": "p", "response": "r", "question": "q", "answer": "a"}
    assert example(record).response == "r"
    assert example(record, layout="question/answer").response == "a"
    with pytest.raises(ValueError, match="leave out layout"):
        TaskSpec(source="files:x", layout="messages", prompt="{a}", response="{b}")


def test_a_template_for_one_side_leaves_the_other_to_the_layout():
    record = {"question": "q", "answer": "a", "hint": "h"}
    assert example(record, prompt="{question} ({hint})") == Example((("user", "q (h)"),), "a")
    assert example(record, response="It is {answer}.") == Example((("user", "q"),), "It is a.")
    assert example({"messages": MESSAGES, "x": 1}, response="{x}") == Example((TALK[0],), "1")
    assert example({"messages": MESSAGES, "x": 1}, prompt="{x}") == Example((("user", "1"),), "2 min")


def test_templates_are_shown():
    record = {"question": "q", "answer": "a", "x": 1}
    assert reading(record, prompt="{question}", response="{x}").layout == "templates"
    assert reading(record, prompt="{x}").layout == "question/answer, own prompt"
    assert reading(record, response="{x}").layout == "question/answer, own response"


def test_several_turns_with_a_system_message():
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert example(record) == Example(tuple(turns[:-1]), "b")
    record = {"system": "s", "conversations": SHARED}
    assert example(record).turns == (("system", "s"), TALK[0])
    record = {"instruction": "v", "output": "b", "history": [["u", "a"]], "system": "s"}
    assert example(record) == Example(tuple(turns[:-1]), "b")
    text = "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nu [/INST] a </s><s>[INST] v [/INST] b </s>"
    assert example({"text": text}) == Example(tuple(turns[:-1]), "b")


@pytest.mark.parametrize(
    "columns",
    [("prompt", "response"), ("prompt", "completion"), ("question", "answer"), ("inputs", "targets"),
     ("input", "output"), ("instruction", "output")],
)  # fmt: skip
def test_a_system_message_in_a_column_of_its_own(columns):
    record = dict(zip(columns, ("u", "a"), strict=True))
    assert example({**record, "system": "s"}) == Example((("system", "s"), ("user", "u")), "a")
    for nothing in (" ", None, 3):
        assert example({**record, "system": nothing}) == Example((("user", "u"),), "a")


def test_columns_that_are_not_read_are_counted():
    found = reading(
        {"question": "is it?", "answer": True, "passage": "p", "id": 7, "source": "web", "empty": ""},
        {"question": "is it?", "answer": True, "passage": "p", "system": "s", "choices": ["a"], "user_id": 3},
        {"messages": MESSAGES, "images": ["x.png"], "tools": []},
        {"instruction": "i", "input": "x", "output": "o", "text": "i x o", "history": []},
    )
    assert found.unread == {"passage": 2, "choices": 1, "images": 1}
    # Who writes a template for the prompt has seen the columns.
    record = {"question": "q", "answer": "a", "hint": "h", "other": "o"}
    assert not reading(record, prompt="{question}").unread
    assert reading(record, response="{answer} {hint}").unread == {"other": 1}
    assert set(BESIDE) == set(COLUMNS)


def test_an_answer_that_is_not_wanted_is_not_learned():
    message = "a `completion` with a `label` of true or false is one that is wanted or not (TRL's KTO)"
    for label in (True, False):
        assert message in why({"prompt": "p", "completion": "c", "label": label})
    assert example({"prompt": "p", "completion": "c", "label": "good"}).response == "c"


def test_objects_that_look_like_messages_are_data():
    record = {"prompt": "Plan a trip.", "response": [{"from": "Rome", "to": "Bari"}]}
    assert example(record) == Example((("user", "Plan a trip."),), '[{"from": "Rome", "to": "Bari"}]')


def test_bytes_that_are_no_text_are_bad():
    assert "can't decode" in why({"prompt": "p", "response": b"\xff"})


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "long?"}]
    record = {"messages": [{"role": "user", "content": parts}, MESSAGES[1]]}
    assert example(record) == Example((TALK[0],), "2 min")
    picture = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, MESSAGES[1]]}
    assert why(picture) == "a message has a part of type 'image_url', which is no text"


def tools_record(*more):
    call = {"id": "c", "type": "function", "function": {"name": "stock", "arguments": '{"sku": 1}'}}
    return {
        "messages": [
            {"role": "user", "content": "Stock of 1?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            *more,
        ],
        "tools": [{"type": "function", "function": {"name": "stock"}}],
    }


def test_calls_of_tools_reach_the_chat_template():
    record = tools_record(
        {"role": "tool", "tool_call_id": "c", "content": '{"left": 2}'}, {"role": "assistant", "content": "2"}
    )
    found = example(record)
    assert found.response == "2"
    assert found.tools() == record["tools"]
    messages = found.messages()
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"] == record["messages"][1]["tool_calls"]
    assert messages[1]["content"] == ""
    assert messages[2]["tool_call_id"] == "c"
    # As plain text nothing is lost, and nothing is called None.
    assert found.turns[1] == ("assistant", '{"name": "stock", "arguments": {"sku": 1}}')
    assert "None" not in repr(found.turns)


def test_a_call_may_be_the_response():
    found = example(tools_record())
    assert json.loads(found.response) == {"name": "stock", "arguments": {"sku": 1}}
    assert found.reply()["tool_calls"][0]["id"] == "c"
    shared = {"conversations": [SHARED[0], {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}]}
    assert json.loads(example(shared).response) == {"name": "f", "arguments": {"x": 1}}


def test_openais_older_calls():
    call = {"name": "stock", "arguments": '{"sku": 1}'}
    messages = [
        {"role": "user", "content": "Stock of 1?"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "stock", "content": "2"},
        {"role": "assistant", "content": "2"},
    ]
    found = example({"messages": messages})
    assert found.messages()[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "stock", "arguments": '{"sku": 1}'}}],
    }
    assert [role for role, _ in found.turns] == ["user", "assistant", "tool"]
    assert json.loads(example({"messages": messages[:2]}).response) == {"name": "stock", "arguments": {"sku": 1}}
    assert json.loads(example({"prompt": messages[:1], "completion": messages[1:2]}).response)["name"] == "stock"


@pytest.mark.parametrize(
    ("prompt", "chosen", "turns"),
    [
        ("How long?", MESSAGES, TALK),
        (MESSAGES[:1], MESSAGES, TALK),
        (MESSAGES[:1], MESSAGES[1:], TALK),
        (" How long?\n", [{"role": "system", "content": "s"}, *MESSAGES], [("system", "s"), *TALK]),
        ([{"role": "system", "content": "s"}, MESSAGES[0]], MESSAGES, [("system", "s"), *TALK]),
        (MESSAGES[:1], [*MESSAGES, *MESSAGES], [*TALK, *TALK]),
    ],
)
def test_a_response_that_repeats_its_prompt_asks_once(prompt, chosen, turns):
    record = {"prompt": prompt, "chosen": chosen, "rejected": []}
    assert example(record, response="{chosen}") == Example(tuple(turns[:-1]), turns[-1][1])


@pytest.mark.parametrize("prompt", ["How far?", [{"role": "system", "content": "t"}, MESSAGES[0]]])
def test_a_response_that_is_another_conversation(prompt):
    chosen = [{"role": "system", "content": "s"}, *MESSAGES]
    with pytest.raises(DataError, match=r"the response holds a conversation of its own, which does not begin with"):
        reading({"prompt": prompt, "chosen": chosen}, response="{chosen}")


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("<s>[SYSTEM_PROMPT] Be brief. [/SYSTEM_PROMPT][INST] hi [/INST] yo</s>",
         [("system", "Be brief."), ("user", "hi"), ("assistant", "yo")]),
        ("[INST] Strike x in HTML [/INST] <s>x</s> </s>", [("user", "Strike x in HTML"), ("assistant", "<s>x</s>")]),
        ("[INST] Strike x in HTML [/INST] <s>x</s>", [("user", "Strike x in HTML"), ("assistant", "<s>x</s>")]),
        ("<s>[INST] Is <s>x</s> HTML? [/INST] Yes</s></s>", [("user", "Is <s>x</s> HTML?"), ("assistant", "Yes")]),
        ("<s> [INST] u [/INST] a</s>[INST] v [/INST] b </s>\n",
         [("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]),
        ("[INST] u [/INST] a [INST] Is <<SYS>> x <</SYS>> one? [/INST] b",
         [("user", "u"), ("assistant", "a"), ("user", "Is <<SYS>> x <</SYS>> one?"), ("assistant", "b")]),
    ],
)  # fmt: skip
def test_texts_with_inst_keep_all_that_they_say(text, turns):
    assert example({"text": text}) == Example(tuple(turns[:-1]), turns[-1][1])


@pytest.mark.parametrize(
    "front", ['[AVAILABLE_TOOLS][{"n": 1}][/AVAILABLE_TOOLS]', "Below is an instruction. Answer in French.\n"]
)
def test_a_text_that_says_something_in_front_of_inst(front):
    assert "in front of [INST], and it is not clear who says it" in why({"text": f"<s>{front}[INST] hi [/INST] yo"})


def test_other_tools_are_another_prompt():
    first, second = tools_record(), {**tools_record(), "tools": [{"type": "function", "function": {"name": "other"}}]}
    assert example(first).prompt_key() != example(second).prompt_key()
    assert example({"prompt": "p", "response": "r"}).prompt_key() == [(("user", "p"),)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "p", "response": ""}, "the response is empty"),
        ({"prompt": "p", "response": float("nan")}, "the response is empty"),
        ({"prompt": "p", "response": []}, "the response is empty"),
        ({"prompt": " ", "response": "r"}, "the prompt is empty"),
        ({"prompt": "p"}, "no column 'response'; it has: prompt"),
        ({"messages": MESSAGES[:1]}, "`messages` must end with a non-empty assistant message"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": None}]}, "`messages` must end with a non-empty"),
        (
            {"messages": [{"role": "critic", "content": "hi"}, MESSAGES[1]]},
            "`messages` has a message of the role 'critic', which is none of assistant, developer, system, tool, user",
        ),
        ({"messages": "text"}, "`messages` must be a list of {role, content}"),
        ({"conversations": SHARED[:1]}, "`conversations` must end with a non-empty assistant message"),
        ({"prompt": "p", "response": "\ud800"}, "half of a surrogate pair"),
        ({"instruction": "i", "output": "o", "history": ["u"]}, "`history` must be a list of [user, assistant]"),
    ],
)
def test_bad_rows(record, message):
    assert message in why(record)


def test_null_in_a_response_template_is_an_empty_response():
    assert why({"prompt": "p", "response": None}, response="It is {response}") == "the response is empty"


def test_a_file_of_no_known_layout_says_what_it_has():
    with pytest.raises(DataError, match=r"f, line 1: no column 'prompt'; it has: label, text\. .* question/answer, "):
        reading({"text": "t", "label": 1}, {"text": "u", "label": 0})


def test_answers():
    record = {"input": "x", "output": ["a", "b"]}
    with pytest.raises(DataError, match=r"f, line 1: 2 answers in a list; set the task's `answers`"):
        reading(record)
    assert [e.response for e in reading(record, answers="first").examples] == ["a"]
    assert [(e.response, e.answer) for e in reading(record, answers="all").examples] == [("a", 0), ("b", 1)]
    drawn = {example(record, answers="random", seed=seed).response for seed in range(20)}
    assert drawn == {"a", "b"}
    squad = {"q": "x", "answers": {"text": ["a", "b"], "start": [1, 2]}}
    assert example(squad, prompt="{q}", response="{answers.text}", answers="first").response == "a"
