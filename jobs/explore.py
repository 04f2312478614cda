"""A finished study in Python: run it cell by cell in a notebook or an editor, or as a script.

``TASKPGM_STUDY`` names the study's folder; by default that of the quickstart. Nothing is trained or scored.
"""

# %% A study's result
import os

from taskpgm_ray import Study

result = Study.finished(os.environ.get("TASKPGM_STUDY", "runs/quickstart"))
result  # noqa: B018  (a notebook shows the verdict and the mixture)

# %% The mixture: weights with their intervals, examples, epochs, and what each task's own adapter learned
tasks = result.tasks().sort_values("weight", ascending=False)
print(tasks[["weight", "low", "high", "count", "loss_before", "loss_after"]])

# %% The affinities: S, and the divergences that it is made of
print(result.matrix().round(2))
divergences = result.affinities.to_pandas("divergence")
print("most alike:", divergences.where(divergences > 0).stack().idxmin())

# %% The mixture at another balance, and what it would change
tasks["diverse"] = dict(zip(result.report.names, result.path.at(0.0), strict=True))
print((tasks["diverse"] - tasks["weight"]).round(3))

# %% The search, and the verdict
print(result.trials().groupby("name")["gold_logprob"].agg(["mean", "count"]) if len(result.trials()) else "no search")
print(result.report.verdict)

# %% Figures of the report, shown inline
figure = result.figure("affinity")
if "JPY_PARENT_PID" in os.environ:
    figure.show()
else:
    print(f"figure of {len(figure.data[0].x)} tasks; in a notebook it is shown here")
