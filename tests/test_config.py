"""The study's config: strict keys and values, overrides, one balance, and a YAML form that reads back equal."""

import os
import re
from pathlib import Path

import pytest
import yaml

from taskpgm_ray import load_config
from taskpgm_ray.config import StudyConfig
from taskpgm_ray.config_mistakes import HABITS, all_fields
from taskpgm_ray.errors import ConfigError


def raw(**changes):
    """The smallest config that is complete."""
    config = {"study": "s", "pool": {"tasks": ["reasoning_gym:gcd", "reasoning_gym:lcm"]}, "finetune": {"steps": 3}}
    return {**config, **changes}


def test_defaults_and_source_strings():
    config = load_config(raw())
    assert [task.source for task in config.pool.tasks] == ["reasoning_gym:gcd", "reasoning_gym:lcm"]
    assert (config.storage, config.scoring.scorer, config.search.balances) == ("runs", "vllm", 6)


def test_the_yaml_form_reads_back_equal():
    config = load_config(
        raw(
            mixture={"beta": 1.5, "lambda": 2.0},
            pool={
                "tasks": [{"source": "hf:org/set", "prompt": "{a}\nb", "params": {"n": [1, 2]}}, "jsonl:data"],
                "include": ["a", "b"],
            },
        )
    )
    written = config.to_yaml()
    assert load_config(yaml.safe_load(written)) == config
    assert "lambda: 2.0" in written


def test_a_file_with_overrides(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(raw()))
    config = load_config(
        file, ["search.seeds=3", "pool.tasks.1=jsonl:x", "model.prompt_format=chat", "search.tau=[0, 2]", "seed=7"]
    )
    assert (config.search.seeds, config.model.prompt_format, config.search.tau, config.seed) == (
        3,
        "chat",
        (0.0, 2.0),
        7,
    )
    assert config.pool.tasks[1].source == "jsonl:x"


def test_overrides_leave_the_callers_dictionary_alone():
    given = raw()
    load_config(given, ["finetune.steps=9"])
    assert given == raw()


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match=r"frozen"):
        load_config(raw()).seed = 3


@pytest.mark.parametrize(
    ("mixture", "tau"),
    [
        ({"tau": 0}, 0.0),
        ({"tau": 2.5}, 2.5),
        ({"beta_over_lambda": 0.5}, 5.0),
        ({"beta": 3, "lambda": 2}, 15.0),
        ({}, None),
    ],
)
def test_the_balance_in_its_three_forms(mixture, tau):
    assert load_config(raw(mixture=mixture)).mixture.fixed_tau(10) == tau


def test_the_search_may_be_off_when_there_is_a_balance():
    config = load_config(raw(mixture={"tau": 1}, search={"balances": 0}))
    assert config.search.balances == 0


@pytest.mark.parametrize(
    "engines",
    [
        {"gpus": 0.5, "max": 2, "gpu_memory_utilization": 0.45},
        {"gpus": 0.5, "max": 1},
        {"gpus": 4, "tensor_parallel": 4},
        {"gpus": 1, "max": 16},
    ],
)
def test_gpus_that_engines_can_use(engines):
    assert load_config(raw(scoring={"engines": engines})).scoring.engines.gpus == engines["gpus"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pol": {}}, r"unknown key 'pol'; did you mean 'pool'\?"),
        ({"finetune": {"steps": 1, "batchsize": 2}}, r"unknown key 'finetune.batchsize'; did you mean 'batch_size'\?"),
        ({"finetune": {"steps": 1, "lanes": {"min": 3, "max": 2}}}, r"finetune.lanes: min \(3\) must not exceed max"),
        ({"finetune": {"steps": 1, "lanes": {"cpu": 2}}}, r"'finetune.lanes.cpu'; did you mean 'cpus'\?"),
        ({"finetune": {"steps": 1, "lanes": {"gpus": 2}}}, r"a worker uses one GPU; gpus: 2 would hold others idle"),
        ({"finetune": {"steps": 1, "lanes": {"gpus": 0.5, "workers": 2}}}, r"need a GPU each .* not 0\.5"),
        ({"scoring": {"engines": {"gpus": 1.5}}}, r"gpus is 1\.5: a part of one GPU or a whole number"),
        ({"scoring": {"engines": {"gpus": 2}}}, r"an engine uses 1 of the 2 GPUs that are reserved"),
        ({"scoring": {"engines": {"tensor_parallel": 4}}}, r"tensor_parallel is 4, but 0 GPUs .* set gpus to 4"),
        (
            {"scoring": {"engines": {"gpus": 0.5, "max": 2}}},
            r"2 engines share a GPU .* each with 0\.85 .* 0\.5 or less",
        ),
        ({"pool": {"tasks": [{"source": "jsonl:a", "prompts": ""}]}}, r"'pool.tasks.0.prompts'; did you mean 'prompt'"),
        (
            {"mixture": {"zzz": 1}},
            r"unknown key 'mixture.zzz'; known here: beta, .*lambda, max_tasks, share, target, tau",
        ),
        ({"finetune": {"steps": "many"}}, r"finetune.steps: .*valid integer.*given: 'many'"),
        ({"finetune": {"steps": 2.5}}, r"finetune.steps: .*integer.*given: 2.5"),
        ({"finetune": {"steps": 0}}, r"finetune.steps: .*greater than 0.*given: 0"),
        ({"finetune": {"steps": 3, "tokens": 5}}, "steps or as tokens: exactly one"),
        ({"finetune": {}}, "steps or as tokens: exactly one"),
        ({"finetune": {"steps": 1, "learning_rate": float("inf")}}, r"finetune.learning_rate: .*finite number"),
        ({"finetune": {"steps": 1, "lora": {"target_modules": ["q_proj", "lm_head"]}}}, "lm_head .* leave them out"),
        ({"finetune": {"steps": 1, "lora": {"r": 1024}}}, r"finetune.lora.r: .*less than or equal to 512.*1024"),
        ({"mixture": {"tau": 1, "beta_over_lambda": 1}}, "give the balance once"),
        ({"mixture": {"beta": 1}}, "beta and lambda go together"),
        ({"mixture": {"lambda": 1}}, "beta and lambda go together"),
        ({"mixture": {"tau": -1}}, r"mixture.tau: .*greater than or equal to 0"),
        ({"mixture": {"tau": float("nan")}}, r"mixture.tau: .*finite number"),
        ({"search": {"balances": 0}}, "no balance: set mixture.tau"),
        ({"search": {"tau": [3, 1]}}, r"0 <= low < high, not \[3.0, 1.0\]"),
        ({"search": {"steps": 3, "tokens": 4}}, "trial's budget as steps or as tokens"),
        ({"search": {"baselines": ["uniform", "uniform"]}}, "baselines lists a value twice: uniform, uniform"),
        ({"search": {"task_counts": [2, 3, 2]}}, "task_counts lists a value twice: 2, 3, 2"),
        ({"search": {"budget_fractions": [0.5, 0.5]}}, "budget_fractions lists a value twice"),
        ({"search": {"screen": "skip", "algorithm": "optuna"}}, "screen: skip needs the grid's candidates"),
        ({"search": {"screen": "skip", "algorithm": "merge"}}, "merge measures and uses what screen does; leave scree"),
        ({"search": {"balances": 2, "algorithm": "merge"}}, "2 leaves none: raise balances to 3 or more"),
        ({"search": {"merges": 11}}, r"search.merges: .*greater than or equal to 12"),
        ({"scoring": {"probes": "some"}}, r"scoring.probes: .*'all' or 'adaptive'.*given: 'some'"),
        ({"scoring": {"probes_precision": 0}}, r"scoring.probes_precision: .*greater than 0"),
        ({"scoring": {"top_k": 124, "answer_tokens": 3}}, r"gold token = 128; the engine takes at most 127"),
        ({"scoring": {"engines": {"max_model_length": 256}}}, r"max_model_length \(256\) is below model.max_length"),
        ({"pool": {"tasks": []}}, "pool.tasks: .*at least 1"),
        ({"pool": {"tasks": ["csv:data"]}}, "'csv:data' is none of files:"),
        ({"pool": {"tasks": ["jsonl:"]}}, "'jsonl:' is none of files:"),
        (
            {"pool": {"tasks": ["jsonl:a"], "max_examples": 16}},
            r"max_examples \(16\) must exceed .*probes_per_task \(16\)",
        ),
        ({"pool": {"tasks": [{"source": "jsonl:a", "name": "../up"}]}}, r"pool.tasks.0.name: .*pattern.*'../up'"),
        ({"pool": {"tasks": [{"source": "jsonl:a", "prompt": "{q"}]}}, "template '{q' is not well formed"),
        ({"study": "../elsewhere"}, r"study: .*pattern.*'../elsewhere'"),
        ({"study": None}, "study: .*valid string"),
    ],
)
def test_a_wrong_config_is_refused_with_its_field(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config(raw(**changes))


def test_a_missing_section_is_named():
    with pytest.raises(ConfigError, match=r"finetune: Field required"):
        load_config({"study": "s", "pool": {"tasks": ["jsonl:a"]}})


def test_every_mistake_is_reported_at_once():
    mixture, lora = {"tau": -1}, {"r": 0, "target_modules": []}
    with pytest.raises(ConfigError) as caught:
        load_config({**raw(mixture=mixture, finetune={"steps": 1, "lora": lora}), "stdy": 1, "seed": "x"})
    lines = str(caught.value).splitlines()
    fields = ("finetune.lora.r", "finetune.lora.target_modules", "mixture.tau", "seed", "unknown key 'stdy'")
    assert sorted(line.split(": ")[1].partition(";")[0] for line in lines) == sorted(fields)


def test_a_missing_file():
    message = rf"there is no config file 'nowhere.yaml' \(looked in {re.escape(os.getcwd())}\); give its path after"
    with pytest.raises(ConfigError, match=message):
        load_config("nowhere.yaml")
    with pytest.raises(ConfigError, match=r"there is no config file '/no/where.yaml'; give its path"):
        load_config("/no/where.yaml")


def test_a_folder_is_no_config_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read: .*directory"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"study: [unclosed", "not readable YAML"),
        (b"study: \xff\xfe", "not readable YAML"),
        (b"- a\n- b\n", "must hold a mapping of sections .* not list"),
        (b"", "must hold a mapping of sections .* not NoneType"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, content, message):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


def test_a_dictionary_with_an_object_in_it(tmp_path):
    with pytest.raises(ConfigError, match=r"a value that YAML cannot"):
        load_config(raw(storage=tmp_path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "'seed' is not of the form section.field=value"),
        ("=3", "'=3' is not of the form"),
        ("study.x=3", "study is a plain value and has no field 'x'"),
        ("pool.tasks.9=a", "does not fit the config: .*out of range"),
        ("pool.tasks.first=a", "does not fit the config: invalid literal"),
        ("model.path=[a", r"'\[a' is not readable YAML"),
        ("search.seed=2", r"unknown key 'search.seed'; did you mean 'seeds'\?"),
    ],
)
def test_a_wrong_override(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(raw(), [override])


# The file


def file_of(tmp_path, text, encoding="utf-8"):
    file = tmp_path / "study.yaml"
    file.write_bytes(text.encode(encoding))
    return file


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path):
    text = yaml.safe_dump(raw()) + "finetune:\n  steps: 100\n  lora: {r: 4, r: 8}\n"
    with pytest.raises(ConfigError) as caught:
        load_config(file_of(tmp_path, text))
    first, second = str(caught.value).splitlines()
    numbers = [i for i, line in enumerate(text.splitlines(), 1) if line.startswith("finetune:")]
    assert f"the key 'finetune' stands twice, in line {numbers[0]} and in line {numbers[1]}" in first
    assert "the key 'finetune.lora.r' stands twice, in line " in second


def test_a_key_that_stands_twice_in_an_override_is_refused():
    with pytest.raises(ConfigError, match=r"override 'model=.*the key 'path' stands twice"):
        load_config(raw(), ["model={path: a, path: b}"])


def test_anchors_and_equal_keys_of_different_sections_are_fine(tmp_path):
    text = "shared: &s {cpus: 2}\n" + yaml.safe_dump(raw())
    with pytest.raises(ConfigError, match=r"unknown key 'shared'"):
        load_config(file_of(tmp_path, text))
    text = yaml.safe_dump(raw(scoring={"engines": {"cpus": 2, "max": 3}}))
    text = text.replace("finetune:\n  steps: 3", "finetune:\n  steps: 3\n  lanes: {<<: &s {cpus: 2}, max: 3}")
    assert load_config(file_of(tmp_path, text)).finetune.lanes.cpus == 2


@pytest.mark.parametrize("text", ["\ufeff{}", "{}"], ids=["with a mark", "without"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_files_of_windows_are_read(tmp_path, text, end):
    content = text.format(yaml.safe_dump(raw()).replace("\n", end))
    assert load_config(file_of(tmp_path, content)) == load_config(raw())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_named(tmp_path, encoding):
    with pytest.raises(ConfigError, match=r"study.yaml is not readable YAML: it is in UTF-16 .*; save it as UTF-8"):
        load_config(file_of(tmp_path, yaml.safe_dump(raw()), encoding))


def test_another_encoding_is_named_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"line 2 is not UTF-8 .*; save it as UTF-8"):
        load_config(file_of(tmp_path, "study: s\nstorage: caf\xe9\n", "latin-1"))


@pytest.mark.parametrize("text", ["study: s\nfinetune:\n\tsteps: 3\n", "study: s\nfinetune:\n  lora:\n  \tr: 3\n"])
def test_a_tab_is_named(tmp_path, text):
    line = text.count("\n")
    with pytest.raises(ConfigError, match=rf"line {line} is indented with a tab, .*spaces only") as caught:
        load_config(file_of(tmp_path, text))
    assert "\n" not in str(caught.value)


# What is said of a mistake


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"affinities": "jsd"}}, r"search.affinities: a list is expected: \[jsd\] \(given: 'jsd'\)"),
        ({"search": {"gammas": 2}}, r"search.gammas: a list is expected: \[2\] \(given: 2\)"),
        ({"evaluation": {"lm_eval": "arc_easy"}}, r"evaluation.lm_eval: a list is expected: \[arc_easy\]"),
        ({"search": {"baselines": {"uniform": 1}}}, r"search.baselines: a list is expected: \[a, b\]"),
        ({"model": "org/name"}, r"model: fields are expected here: .*path, revision.*given: 'org/name'"),
        ({"scoring": None}, r"scoring: fields are expected here"),
        ({"affinity": {"kind": ["jsd"]}}, r"affinity.kind: .*'jsd', 'pmi' or 'pmi_pairwise' \(given: \['jsd'\]\)"),
        ({"lr": 1}, r"unknown key 'lr'; it is called finetune.learning_rate here"),
        ({"finetune": {"steps": 1, "lr": 1}}, r"'finetune.lr'; it is called finetune.learning_rate here"),
        ({"finetune": {"steps": 1, "lora": {"lora_alpha": 1}}}, r"it is called finetune.lora.alpha here"),
        ({"finetune": {"steps": 1, "lora_r": 1}}, r"it is called finetune.lora.r here"),
        ({"finetune": {"steps": 1, "epochs": 1}}, r"it is called finetune.steps or finetune.tokens .* epochs\) here"),
        ({"finetune": {"steps": 1, "num_train_epochs": 1}}, r"it is called finetune.steps or finetune.tokens"),
        ({"finetune": {"steps": 1, "per_device_train_batch_size": 1}}, r"it is called finetune.batch_size"),
        ({"model": {"max_seq_length": 1}}, r"it is called model.max_length here"),
        ({"base_model": "x"}, r"it is called model.path here"),
        ({"model": {"model_name_or_path": "x"}}, r"it is called model.path here"),
        ({"learning_rate": 1}, r"unknown key 'learning_rate'; it belongs elsewhere: finetune.learning_rate"),
        ({"finetune": {"steps": 1, "max_length": 9}}, r"it belongs elsewhere: model.max_length"),
        ({"finetune": {"steps": 1, "lora": {"target_modules": []}}}, r"it names no layer, so nothing would be trained"),
        ({"finetune": {"steps": 1, "lora": {"target_modules": "*_proj"}}}, r"'\*_proj' is not a regular expression"),
    ],
)
def test_habits_and_wrong_kinds_get_a_hint(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config(raw(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune": {"steps": 1, "method": "full"}}, "say whose and how in affinity.model"),
        (
            {"finetune": {"steps": 1, "method": "full"}, "affinity": {"model": {"path": "x"}}},
            "and how in affinity.model .it may be the same model. and affinity.finetune",
        ),
        (
            {"affinity": {"model": {"path": "x"}, "finetune": {"steps": 1, "method": "full"}}},
            "affinity.finetune.method: tasks are compared by adapters, which is lora",
        ),
    ],
)
def test_tasks_are_compared_by_adapters(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"study": "s", "pool": {"tasks": ["jsonl:x"]}, "finetune": {"steps": 1}, **changes})


def test_all_weights_of_mixtures_and_adapters_of_the_proxy():
    config = load_config(
        {
            "study": "s",
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 1, "method": "full"},
            "affinity": {"model": {"path": "x"}, "finetune": {"steps": 2}},
        }
    )
    assert config.finetune.adapter is None
    assert config.of_proxy().finetune.adapter == config.finetune.lora


def test_every_name_of_other_trainers_leads_to_a_field():
    fields = set(all_fields(StudyConfig))
    for name, hint in HABITS.items():
        assert hint.split(" ")[0] in fields, (name, hint)
        assert name not in {field.rpartition(".")[2] for field in fields}, name


# Paths


def test_home_and_variables_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/me")
    config = load_config(
        raw(
            storage="s3://bucket/${DATA}/runs",
            model={"path": "~/models/llama"},
            pool={"tasks": ["jsonl:${DATA}/a.jsonl", "hf:~/sets/b", "hf:org/name"]},
            evaluation={"data": "${DATA}", "lm_eval": ["~/my.yaml", "arc_easy"]},
        )
    )
    assert config.storage == f"s3://bucket/{tmp_path}/runs"
    assert config.model.path == "/home/me/models/llama"
    assert [t.source for t in config.pool.tasks] == [f"jsonl:{tmp_path}/a.jsonl", "hf:/home/me/sets/b", "hf:org/name"]
    assert (config.evaluation.data, config.evaluation.lm_eval) == (str(tmp_path), ("/home/me/my.yaml", "arc_easy"))
    assert load_config(yaml.safe_load(config.to_yaml())) == config


def test_paths_without_them_stay_as_they_are():
    given = {"storage": "./runs", "model": {"path": "a~b/$c"}, "pool": {"tasks": ["jsonl:../x y/{a}.jsonl"]}}
    config = load_config(raw(**given))
    assert (config.storage, config.model.path) == ("./runs", "a~b/$c")
    assert config.pool.tasks[0].source == "jsonl:../x y/{a}.jsonl"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"storage": "${NOT_THERE}/x"}, "storage"),
        ({"model": {"path": "${NOT_THERE}"}}, "model.path"),
        ({"pool": {"tasks": ["jsonl:${NOT_THERE}/x"]}}, "pool.tasks.0.source"),
        ({"evaluation": {"data": "x/${NOT_THERE}"}}, "evaluation.data"),
        ({"evaluation": {"lm_eval": ["${NOT_THERE}.yaml"]}}, "evaluation.lm_eval.0"),
    ],
)
def test_a_variable_that_is_not_set_is_named(monkeypatch, changes, field):
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(ConfigError, match=rf"{field}: the variable \$\{{NOT_THERE\}} is not set; export NOT_THERE"):
        load_config(raw(**changes))


def test_the_path_of_the_config_itself(tmp_path, monkeypatch):
    file_of(tmp_path, yaml.safe_dump(raw()))
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("${HERE}/study.yaml", "~/study.yaml", Path(tmp_path) / "study.yaml"):
        assert load_config(path) == load_config(raw())
    monkeypatch.delenv("HERE")
    with pytest.raises(ConfigError, match=r"--config \$\{HERE\}/study.yaml: the variable \$\{HERE\} is not set"):
        load_config("${HERE}/study.yaml")


def test_what_a_proxy_can_say_and_what_it_cannot():
    base = {"study": "s", "pool": {"tasks": ["jsonl:a"]}, "finetune": {"steps": 4}}
    proxy = {"model": {"path": "openai-community/gpt2", "max_length": 512}, "scorer": "hf"}
    config = load_config(base | {"affinity": proxy | {"finetune": {"steps": 9}}})
    of_proxy = config.of_proxy()
    assert of_proxy.model.path == "openai-community/gpt2"
    assert (of_proxy.finetune.steps, config.finetune.steps) == (9, 4)
    assert (of_proxy.scoring.scorer, config.scoring.scorer) == ("hf", "vllm")
    assert of_proxy.of_proxy() is None
    assert load_config(base).of_proxy() is None
    # Without a recipe of its own it has that of the mixtures.
    assert load_config(base | {"affinity": proxy}).of_proxy().finetune.steps == 4
    for wrong, message in (
        ({"affinity": {"finetune": {"steps": 9}}}, "belong to affinity.model, which is not given"),
        ({"affinity": proxy, "search": {"screen": "measure"}}, "search.screen merges the single-task adapters"),
        ({"affinity": proxy, "search": {"lift": True}}, "search.lift"),
        ({"affinity": proxy, "search": {"algorithm": "merge"}}, "search.algorithm: merge merges the single-task ad"),
        (
            {"affinity": proxy, "finetune": {"steps": 4, "method": "full"}, "search": {"algorithm": "merge"}},
            "merge merges adapters, and finetune.method: full trains whole models: take lora, or",
        ),
        ({"affinity": proxy, "search": {"utilities": ["targeted"]}}, "targeted utility"),
        *(
            ({"search": {"balances": 0} | asked, "mixture": {"tau": 1.0}}, rf"{field} .*balances: 0 has no search")
            for asked, field in (
                ({"lift": True}, r"search\.lift"),
                ({"utilities": ["targeted"]}, r"search\.lift"),
                ({"screen": "measure"}, r"search\.screen"),
            )
        ),
        ({"affinity": proxy, "scoring": {"scorer": "auto"}}, "give vllm or hf"),
        ({"affinity": proxy | {"model": {"path": "a/b", "max_length": 9000}}}, "below affinity.model.max_length"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(base | wrong)
