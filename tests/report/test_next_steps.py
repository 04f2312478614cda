"""The steps of a report follow from its facts, each with the command that takes it."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_1samp

from taskpgm_ray import load_config
from taskpgm_ray.affinity.precision import Precision
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.evaluation.statistics import PairedDifference
from taskpgm_ray.finetune.usable import Usable
from taskpgm_ray.insight.tasks import explain
from taskpgm_ray.judge.comparisons import Comparison
from taskpgm_ray.judge.looks import confidence_with_most
from taskpgm_ray.mrf import solve
from taskpgm_ray.report.html import render
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.next_steps import advice, next_steps
from taskpgm_ray.workload import report_looks

CONFIG = "study: demo\nstorage: runs\nsearch: {tau: [0.0, 4.0]}\nfinetune: {steps: 40}\npool: {probes_per_task: 16}\n"


def versus(difference=0.02, seeds=3, seed_error=0.01, item_error=0.002, verdict="no difference shown", low=-0.01):
    result = PairedDifference(
        "gold_logprob", difference, low, difference + 0.03, 0.2, item_error, seed_error, 0.05, 0.95, 120, seeds
    )
    return [Comparison("tau-0.5", "uniform", "all", result, 0.2, verdict)]


@pytest.fixture
def study(report_data):
    def make(**changes):
        plain = {"config_yaml": CONFIG, "comparisons": versus(verdict="better"), "coverage": None, "noise": None}
        return report_data(6, **(plain | changes))

    return make


def commands(data):
    return [step.command for step in next_steps(data)]


def test_a_settled_study_has_only_its_export(study):
    assert commands(study()) == ["taskpgm export trl runs/demo out/"]


def test_a_study_in_a_bucket_keeps_the_options_behind_its_name(study):
    """The URI is quoted for the shell; a config in a bucket is not readable, so the user's own is asked for."""
    data = study(config_yaml=CONFIG.replace("storage: runs", "storage: s3://bucket/taskpgm?region=eu&scheme=http"))
    tasks = [replace(task, usable=Usable(0.1, 0.1, 0.7)) for task in data.tasks]
    assert commands(replace(data, tasks=tasks)) == [
        "taskpgm tasks --config ... --examples 5",
        "taskpgm export trl 's3://bucket/taskpgm/demo?region=eu&scheme=http' out/",
    ]
    spaced = study(config_yaml=CONFIG.replace("storage: runs", "storage: my runs/"))
    assert commands(spaced) == ["taskpgm export trl 'my runs/demo' out/"]


def test_one_seed_is_no_verdict(study):
    data = study(comparisons=versus(seeds=1, low=-np.inf))
    assert commands(data)[0] == "evaluation.report_seeds=5"
    assert "one fine-tune each, which is no verdict" in advice(data)


def advised(command):
    """The number of fine-tunes in a command."""
    return int(command.split("most_report_seeds=")[1].split()[0])


def test_the_seeds_that_would_show_what_was_seen(study):
    """Looks are counted, and few seeds have the tails of Student's t: the 7 of a normal showed it half of the time."""
    (command, *_) = commands(study(comparisons=versus()))
    assert command == ("evaluation.report_seeds=auto evaluation.smallest_effect=0.02 evaluation.most_report_seeds=13")
    rng = np.random.default_rng(0)
    level, luck = 1 - confidence_with_most(13, 0.95), 0.01 * np.sqrt(3)
    means = 0.02 + rng.normal(0, 0.002, 4000)[:, None] + rng.normal(0, luck, (4000, 13))
    shown = ttest_1samp(means, 0, axis=1, alternative="greater").pvalue < level / 2
    assert 0.8 <= shown.mean() <= 0.9


def test_more_questions_where_theirs_is_the_larger_error(study):
    # At ten seeds' 0.022 and the questions' 0.017, more seeds alone leave the questions'.
    both = versus(difference=0.046, seeds=10, seed_error=0.022, item_error=0.017)
    step = next_steps(study(comparisons=both))[0]
    times = advised(step.command) / 10
    assert 3 < times < 6
    assert f"about {times:.1f} times the questions and fine-tunes" in step.what
    assert " evaluation.report_items_per_subject=... evaluation.report_items_per_task=..." in step.command
    own = CONFIG + "evaluation: {mmlu: false, own_tasks: true, lm_eval: [arc_easy]}\n"
    (command, *_) = commands(study(comparisons=both, config_yaml=own))
    assert command.endswith("s=48 evaluation.report_items_per_task=... evaluation.report_items_per_data_set=...")
    small = study(comparisons=versus(difference=0.001))
    assert "not worth the fine-tunes" in next_steps(small)[0].what
    items = study(comparisons=versus(difference=0.001, item_error=0.02))
    assert "items are the larger part of the noise" in next_steps(items)[0].what


def test_what_is_advised_after_several_looks_is_a_config(study):
    """``report_seeds`` beside ``smallest_effect`` is refused: of a study with ``auto`` only the most is raised."""
    auto = "evaluation: {report_seeds: auto, smallest_effect: 0.01, most_report_seeds: 5}\n"
    (command, *_) = commands(study(comparisons=versus(seeds=5), config_yaml=CONFIG + auto))
    assert command.startswith("evaluation.most_report_seeds=")
    settings = {
        "study": "s",
        "model": {"path": "m"},
        "pool": {"tasks": ["reasoning_gym:gcd", "reasoning_gym:lcm"]},
        "finetune": {"steps": 1},
    }
    config = load_config(settings | yaml.safe_load(auto), command.split())
    assert report_looks(config)[-1] == advised(command)
    (command, *_) = commands(study(comparisons=versus()))
    assert report_looks(load_config(settings, command.split()))[-1] == 13
    # An interval narrower than what matters is an answer.
    narrow = auto.replace("0.01", "0.07")
    assert len(commands(study(comparisons=versus(seeds=5), config_yaml=CONFIG + narrow))) == 1


def test_tasks_whose_answers_hang_on_no_question_are_to_be_read(study):
    data = study()
    known, chance = Usable(0.5, 0.1, 0.7), Usable(0.1, 0.1, 0.7)
    assert len(next_steps(replace(data, tasks=[replace(task, usable=known) for task in data.tasks]))) == 1
    tasks = [replace(task, usable=chance if k in (1, 4) else known) for k, task in enumerate(data.tasks)]
    tasks[4] = replace(tasks[4], usable=Usable(-0.2, 0.1, 0.7))
    step, _ = next_steps(replace(data, tasks=tasks))
    assert step.command == "taskpgm tasks --config runs/demo/config.yaml --examples 5"
    assert f"the answers of {data.names[4]}, {data.names[1]} hang on" in step.what
    step, _ = next_steps(replace(data, tasks=[replace(task, usable=chance) for task in data.tasks]))
    assert f"{data.names[4]} and 1 more hang on" in step.what


@pytest.mark.parametrize(
    ("tau", "range_", "command"),
    [
        (4.0, "[0.0, 4.0]", "search.tau=[0,8]"),
        (3.95, "[0.0, 4.0]", "search.tau=[0,8]"),
        (0.5, "[0.5, 4.0]", "search.tau=[0,4]"),
        (0.0, "[0.0, 4.0]", None),
        (2.0, "[0.0, 4.0]", None),
    ],
)
def test_a_winner_at_the_edge_of_the_range(study, tau, range_, command):
    data = study(config_yaml=CONFIG.replace("[0.0, 4.0]", range_))
    data = replace(data, mixture=data.mixture | {"tau": tau})
    assert commands(data)[:-1] == ([command] if command else [])


def test_what_the_affinities_lack(study):
    data = study()
    insight = explain(data.names, data.affinity, solve(data.affinity, 0.8), None, data.lift)
    insight = replace(insight, uniform=True)
    uniform = replace(data, insight=insight)
    assert commands(uniform)[0] == "pool.probes_per_task=32"
    # Where there are probes that were not scored, these come first.
    spared = replace(uniform, precision=Precision(0.018, 0.1), wanted_precision=0.2, probes_scored=48)
    assert commands(spared)[0] == "scoring.probes_precision=0.09"


@pytest.mark.parametrize(
    ("scoring", "more"),
    [
        ({}, None),
        ({"top_k": 20}, 40),
        ({"top_k": 60}, 94),
        ({"top_k": 94, "answer_tokens": 8}, 118),
        ({"top_k": 94, "answer_tokens": 0}, 124),
        ({"top_k": 124, "answer_tokens": 0}, None),
    ],
)
def test_a_larger_support_is_advised_where_a_request_takes_one(study, scoring, more):
    """``scoring.top_k=188`` was advised, which no config may have; the usual support is as large as a request takes."""
    data = study(coverage=np.full((7, 6), 0.9), config_yaml=CONFIG + yaml.safe_dump({"scoring": scoring}))
    assert commands(data)[:-1] == ([] if more is None else [f"scoring.top_k={more}"])
    page = render(data)
    assert ("a larger support (scoring.top_k) narrows them" in page) == (more is not None)
    assert ("the support is as large as a request of the engine allows" in page) == (more is None)
    settings = {
        "study": "s",
        "model": {"path": "m"},
        "pool": {"tasks": ["reasoning_gym:gcd"]},
        "finetune": {"steps": 1},
    }
    settings |= {"scoring": scoring}
    if more is None:
        with pytest.raises(ConfigError):
            load_config(settings, [f"scoring.top_k={scoring.get('top_k', 94) + 1}"])
    else:
        assert load_config(settings, commands(data)[:1]).scoring.top_k == more


def test_more_probes_where_all_were_too_few(study):
    data = study(precision=Precision(0.015, 0.1), wanted_precision=0.1, probes_scored=96)
    (step, _) = next_steps(data)
    assert step.command == "pool.probes_per_task=36"
    assert "error is 15.0\u00a0% of what they differ by, and 10.0\u00a0% was asked: keep about 36 of each" in step.what
    (step, _) = next_steps(replace(data, wanted_precision=0.001))
    assert "as precise as that they cannot be made" in step.what
    # Not twice, with two numbers.
    insight = explain(data.names, data.affinity, solve(data.affinity, 0.8), None, data.lift)
    uniform = replace(data, insight=replace(insight, uniform=True))
    assert commands(uniform)[:-1] == ["pool.probes_per_task=36"]
    assert len(next_steps(replace(data, wanted_precision=0.2))) == 1


def test_repeats_name_how_many_examples_fit(study):
    data = study()
    tasks = [dict(task) for task in data.mixture["tasks"]]
    tasks[2]["epochs"] = 16.0
    data = replace(data, mixture=data.mixture | {"tasks": tasks})
    assert commands(data)[0] == f"mixture.examples={data.mixture['examples'] // 4}"


def test_tasks_that_failed_and_a_comparison_that_is_missing(study):
    data = study(skipped={"lost": "the loss is not finite"})
    assert commands(data)[0] == "taskpgm clean runs/demo --failed --yes"
    other = [replace(one, baseline="proportional") for one in versus(verdict="better")]
    assert "search.baselines=[uniform]" in commands(study(comparisons=other))


def test_uniform_is_added_to_the_baselines_that_there_are(study):
    """The list replaced the study's own; and what was the same as another baseline was asked for in vain."""
    other = [replace(one, baseline="proportional") for one in versus(verdict="better")]
    search = "search: {tau: [0.0, 4.0], baselines: [proportional, equal_loss]}"
    own = study(comparisons=other, config_yaml=CONFIG.replace("search: {tau: [0.0, 4.0]}", search))
    assert commands(own)[:-1] == ["search.baselines=[proportional,equal_loss,uniform]"]
    assert commands(replace(own, left_out={"uniform": "it is the mixture of proportional"}))[:-1] == []
    failed = CONFIG.replace("search: {tau: [0.0, 4.0]}", "search: {baselines: [uniform, proportional]}")
    assert commands(replace(own, config_yaml=failed))[:-1] == []


def test_the_advice_names_no_task_without_a_share(study):
    data = study()

    def named(*weights):
        tasks = [task | {"weight": weight} for task, weight in zip(data.mixture["tasks"], weights, strict=True)]
        said = advice(replace(data, mixture=data.mixture | {"tasks": tasks}))
        for k, name in enumerate(data.names):
            said = said.replace(name, "abcdef"[k])
        return said[said.index("(") : said.index(").") + 1].replace("\u00a0", " ")

    assert named(0, 1, 0, 0, 0, 0) == "(b 100.0 %)"
    assert named(0, 0.4, 0.0004, 0.5996, 0, 0) == "(d 60.0 %, b 40.0 %)"
    assert named(0.1, 0.2, 0.3, 0.4, 0, 0) == "(d 40.0 %, c 30.0 %, b 20.0 %, ...)"


@pytest.mark.parametrize(("confidence", "said"), [(0.95, "95"), (0.995, "99.5"), (0.975, "97.5"), (0.9983, "99.83")])
def test_no_interval_is_one_of_100_per_cent(study, confidence, said):
    data = study()
    found = [replace(one, result=replace(one.result, confidence=confidence)) for one in data.comparisons]
    assert f"nats, {said}\u00a0% interval" in advice(replace(data, comparisons=found))


def test_the_advice_names_what_is_recommended(study):
    data = study()
    assert advice(data).startswith("Train on the mixture of this study (")
    assert "+0.0200 nats, 95" in advice(data)
    assert "17 min 45 s" in advice(data)
    data = replace(data, mixture=data.mixture | {"recommended": "uniform"})
    assert advice(data).startswith("Train on all tasks in equal shares")
    data = replace(data, mixture=data.mixture | {"recommended": "proportional"})
    assert advice(data).startswith("Train on the baseline proportional")


def test_the_report_opens_with_them(study):
    data = study(comparisons=versus(seeds=1, low=-np.inf))
    page = render(data)
    assert page.index('<section id="next">') < page.index('<section id="mixture">')
    assert "<code>evaluation.report_seeds=5</code>" in page
    assert "`evaluation.report_seeds=5`" in study_table(data, "command")
