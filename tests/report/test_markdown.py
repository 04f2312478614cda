"""The study as Markdown."""

from dataclasses import replace

from taskpgm_ray.evaluation.statistics import PairedDifference
from taskpgm_ray.judge.comparisons import Comparison
from taskpgm_ray.judge.rows import BudgetScores, SeedScores, TaskScores
from taskpgm_ray.report.data import TrialRow
from taskpgm_ray.report.markdown import study_table


def comparison(system, scope="all", difference=0.06):
    result = PairedDifference(
        "gold_logprob", difference, difference - 0.02, difference + 0.02, p_value=0.01, item_error=0.011,
        seed_error=0.022, minimum_detectable=0.05, confidence=0.95, items=120, seeds=3,
    )  # fmt: skip
    return Comparison(system, "uniform", scope, result, 0.012, "better")


def test_the_table_holds_every_method_task_and_the_command(report_data):
    means = {"gold_logprob": -1.5, "accuracy": 0.25}
    data = report_data(
        against_uniform=[comparison("tau-0.5"), comparison("text|tau-1", "mmlu", -0.1)],
        comparisons=[comparison("tau-0.5")],
        by_task=[TaskScores("mmlu", "anatomy", 20, {"tau-0.5": means, "uniform": means}, 1.0, 1.0)],
        by_seed=[
            SeedScores("tau-0.5", 0, **means),
            SeedScores("tau-0.5", 1, gold_logprob=-1.75, accuracy=0.25),
            SeedScores("base model", 0, **means),
        ],
    )
    text = study_table(data, "python jobs/real_study.py")
    assert "`python jobs/real_study.py`" in text
    assert "| tau-0.5 | all | Gold log-prob. (nats) | +0.0600 | +0.0400 to +0.0800 | 0.012 |" in text
    assert f"{16 * len(data.tasks)} probes; gamma = {data.gamma:.3g}; standard error" in text
    assert "text/tau-1" in text
    assert "| 0.0500 | 0.0110 | 0.0220 | better | 120 × 3 |" in text
    assert "| uniform | all | Gold log-prob. (nats) | +0.0600 |" in text
    assert "| tau-0.5 | -1.5000 / 25.0\u00a0% | -1.7500 / 25.0\u00a0% |" in text
    assert "| base model | -1.5000 / 25.0\u00a0% | – |" in text
    assert "| mmlu | anatomy | 20 | -1.5000 / 25.0" in text
    assert "| tau-0.5 | -1.5000 / 25.0\u00a0% | -1.5000 / 25.0\u00a0% |" in text
    weights = next(t.weights for t in data.trials if t.name == "tau-0.5")
    assert f"| {data.names[0]} | {100 * weights[0]:.1f}\u00a0% |" in text
    assert "less training" not in text
    assert "stopped" not in text
    assert "Planted redundancy" not in text


def weights_table(text):
    """Header and first row of the mixtures' weights, and what is said below."""
    part = text[text.index("## What each mixture holds") : text.index("## Trials on the search split")]
    lines = part.split("\n\n")
    head, _, first, *_ = lines[1].splitlines()
    return *([cell.strip() for cell in line.strip("|").split("|")] for line in (head, first)), lines[2:]


def test_the_chosen_mixture_has_its_weights_where_it_is_no_trial(judged_data):
    """A maximum of the curve lies between the trials: of all mixtures the chosen one had no column."""
    data = judged_data(4)
    head, first, _ = weights_table(study_table(data, "command"))
    assert head == ["task", "tau-0.5", "uniform", "proportional"]
    rows = [
        replace(row, scores={name.replace("tau-0.5", "tau-0.61"): means for name, means in row.scores.items()})
        for row in data.by_task
    ]
    trials = [replace(trial, winner=False) for trial in data.trials]
    head, first, _ = weights_table(study_table(replace(data, by_task=rows, trials=trials), "command"))
    assert head == ["task", "tau-0.61", "uniform", "proportional"]
    assert first[:3] == [data.names[0], f"{100 * data.weights[0]:.1f}\u00a0%", "25.0\u00a0%"]


def test_a_mixture_drawn_anew_for_each_seed_is_no_column(judged_data):
    """``random`` showed the last seed's weights beside the mean scores of all."""
    data = judged_data(4)
    other = [0.7, 0.1, 0.1, 0.1]
    trials = [replace(t, weights=other) if (t.name, t.seed) == ("uniform", 1) else t for t in data.trials]
    head, _, below = weights_table(study_table(replace(data, trials=trials), "command"))
    assert head == ["task", "tau-0.5", "proportional"]
    assert below[0] == "Each seed of uniform is a mixture of its own."


def test_chance_of_mmlu_is_told_where_it_was_asked(judged_data):
    data = judged_data(4)
    assert "MMLU" not in study_table(data, "command")
    rows = [replace(row, benchmark="mmlu") for row in data.by_task[:1]]
    assert "chance is -1.3863 and 25 %" in study_table(replace(data, by_task=[*rows, *data.by_task]), "command")


def test_benchmarks_count_equally_in_the_mean(report_data):
    scores = [{"ours": {"gold_logprob": value, "accuracy": 0.5}} for value in (-1.0, -2.0, -4.0)]
    tasks = [("mmlu", "a"), ("mmlu", "b"), ("bbh", "c")]
    shares = [(0.25, 0.5), (0.25, 0.5), (0.5, 1.0)]
    rows = [TaskScores(*task, 9, s, *part) for task, s, part in zip(tasks, scores, shares, strict=True)]
    text = study_table(report_data(by_task=rows, gamma=None, divergence_se=None), "command")
    assert "gamma" not in text
    assert "standard error of a divergence" not in text
    assert "| mixture | mmlu | bbh | all |" in text
    half = "50.0\u00a0%"
    assert f"| ours | -1.5000 / {half} | -4.0000 / {half} | -2.7500 / {half} |" in text


def test_budgets_are_compared_with_uniform(report_data):
    row = BudgetScores("greedy-4-tasks", 4, 0.25, gold_logprob=-1.25, accuracy=0.3)
    compared = replace(row, name="uniform@25%", difference=-0.1, low=-0.2, high=0.05)
    text = study_table(report_data(budgets=[row, compared]), "command")
    assert "| greedy-4-tasks | 4 | 25\u00a0% | -1.2500 / 30.0\u00a0% | – | – |" in text
    assert "| uniform@25% | 4 | 25\u00a0% | -1.2500 / 30.0\u00a0% | -0.1000 | -0.2000 to +0.0500 |" in text


def test_trials_without_a_score_say_why(report_data):
    bare = TrialRow(name="a", kind="balance", tau=1.5, weights=[1 / 6] * 6)
    trials = [
        replace(bare, stopped=True),
        replace(bare, name="b", skipped=True),
        replace(bare, name="c", error="the loss became nan"),
    ]
    text = study_table(report_data(trials=trials), "command")
    assert "| a | 1.5 | – | – | – | stopped early |" in text
    assert "| b | 1.5 | – | – | – | not trained (screen) |" in text
    assert "| c | 1.5 | – | – | – | the loss became nan |" in text
