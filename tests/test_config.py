"""The study's config: strict keys and values, overrides, one balance, and a YAML form that reads back equal."""

import pytest
import yaml

from taskpgm_ray import load_config
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
    ("changes", "message"),
    [
        ({"pol": {}}, r"unknown key 'pol'; did you mean 'pool'\?"),
        ({"finetune": {"steps": 1, "batchsize": 2}}, r"unknown key 'finetune.batchsize'; did you mean 'batch_size'\?"),
        ({"finetune": {"steps": 1, "lanes": {"min": 3, "max": 2}}}, r"finetune.lanes: min \(3\) must not exceed max"),
        ({"finetune": {"steps": 1, "lanes": {"cpu": 2}}}, r"'finetune.lanes.cpu'; did you mean 'cpus'\?"),
        ({"pool": {"tasks": [{"source": "jsonl:a", "prompts": ""}]}}, r"'pool.tasks.0.prompts'; did you mean 'prompt'"),
        ({"mixture": {"zzz": 1}}, r"unknown key 'mixture.zzz'; known here: .*beta.*lambda, tau"),
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
        ({"search": {"screen": "skip", "algorithm": "optuna"}}, "screen: skip needs the grid's candidates"),
        ({"scoring": {"top_k": 124, "answer_tokens": 3}}, r"gold token = 128; the engine takes at most 127"),
        ({"scoring": {"engines": {"max_model_length": 256}}}, r"max_model_length \(256\) is below model.max_length"),
        ({"pool": {"tasks": []}}, "pool.tasks: .*at least 1"),
        ({"pool": {"tasks": ["csv:data"]}}, "'csv:data' is none of jsonl:"),
        ({"pool": {"tasks": ["jsonl:"]}}, "'jsonl:' is none of jsonl:"),
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
    with pytest.raises(ConfigError, match=r"seed: .*; unknown key 'stdy'"):
        load_config({**raw(), "stdy": 1, "seed": "x"})


def test_a_missing_file():
    with pytest.raises(ConfigError, match=r"there is no config file 'nowhere.yaml'; give its path after --config"):
        load_config("nowhere.yaml")


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
        ("model.path=[a", r"'\[a' is not YAML"),
        ("search.seed=2", r"unknown key 'search.seed'; did you mean 'seeds'\?"),
    ],
)
def test_a_wrong_override(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(raw(), [override])
