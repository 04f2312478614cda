"""Formats that hold text: what it is, tokenised again, and what an export says of it."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from taskpgm_ray.export import EXPORTERS, export
from taskpgm_ray.export.examples import read_bundle


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("trainer", ["megatron", "nemo"])
@pytest.mark.parametrize("name", ["plain_study", "chat_study"])
def test_the_documents_of_megatron_are_what_the_study_read(request, tmp_path, trainer, name):
    """Chats with their template; the end of the text is what --append-eod writes."""
    study, told = request.getfixturevalue(name), []
    _, script, *files = export(trainer, study.folder, tmp_path, tell=told.append)
    assert "--append-eod" in script.read_text()
    trained = {tuple(row["prompt_ids"] + row["response_ids"]) for t in study.tasks for row in study.table(t.name)}
    tokenizer = study.tokenizer
    for file in files:
        for line in lines_of(file):
            assert (*tokenizer(line["text"])["input_ids"], tokenizer.eos_token_id) in trained
    assert told == []


def test_a_chat_keeps_who_says_what(chat_study, tmp_path):
    _, _, first, *_ = export("megatron", chat_study.folder, tmp_path)
    text = lines_of(first)[0]["text"]
    assert text.startswith("<system>Be brief.<eos><user>Hello<eos><assistant>Yes?<eos><user>First letter of ")
    assert "<eos><assistant>" in text[-20:]


def test_documents_of_cut_prompts_are_cut_as_well(hard_study, tmp_path):
    _, _, first, *_ = export("megatron", hard_study.folder, tmp_path)
    trained = {tuple(row["prompt_ids"] + row["response_ids"]) for row in hard_study.table("copy")}
    for line in lines_of(first):
        ids = hard_study.tokenizer(line["text"])["input_ids"]
        assert (*ids, hard_study.tokenizer.eos_token_id) in trained


def test_texts_that_become_other_tokens_are_counted(chat_study, tmp_path):
    told, tokenizer = [], chat_study.tokenizer
    bundle = replace(read_bundle(chat_study.folder), tell=told.append)
    *_, last = bundle.tasks
    first, *others = last.lines
    letters = [token for letter in tokenizer.decode(first.prompt_ids) for token in tokenizer.encode(letter)]
    last.__dict__["lines"] = [replace(first, prompt_ids=letters), *others]
    EXPORTERS["nemo"].write(bundle, tmp_path)
    (remark,) = told
    assert "other tokens than those that the study trained: sum 1 of 48 (" in remark


def test_parquet_holds_conversations_as_they_are(chat_study, tmp_path):
    [path] = export("parquet", chat_study.folder, tmp_path)
    table = pq.read_table(path)
    assert table.column_names == ["messages", "tools", "task"]
    said = json.loads(table["messages"][0].as_py())
    assert [message["role"] for message in said] == ["system", "user", "assistant", "user", "assistant"]
    assert table["tools"].null_count == len(table)
