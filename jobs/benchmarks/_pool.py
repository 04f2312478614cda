"""A study's tasks and base model, prepared for benchmarks that train in their own process."""

import tempfile
from contextlib import contextmanager

from taskpgm_ray import Study, load_config
from taskpgm_ray.finetune.job_data import JobData
from taskpgm_ray.models import prepare


@contextmanager
def prepared(file):
    """(tasks, model, config, all training examples) of a study, while the body runs."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(load_config(file, [f"storage={folder}", "search.balances=0", "mixture.tau=1"]))
        with study.driving():
            tasks = study.prepare()
        model = study.session.model
        prepare(model)
        yield tasks, model, study.config, JobData([task.examples("train") for task in tasks], [])
