"""What a study comes to: a mixture and why, and the document that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.config import StudyConfig
from taskpgm_ray.export import MixtureDocument, MixtureTask
from taskpgm_ray.insight.tasks import Insight
from taskpgm_ray.judge.samples import Sample
from taskpgm_ray.judge.stage import Judgement
from taskpgm_ray.judge.verdict import CHOSEN, UNJUDGED
from taskpgm_ray.mixture import Constraints
from taskpgm_ray.numerics.types import FloatArray
from taskpgm_ray.search.choice import FittedCurve
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.stage import Outcome
from taskpgm_ray.storage import fingerprint
from taskpgm_ray.tasks.prepare import Task


@dataclass(frozen=True, eq=False)
class Conclusion:
    """The mixture that a study comes to, and why."""

    family: Family
    tau: float
    weights: FloatArray
    verdict: str = UNJUDGED
    recommended: str = CHOSEN
    """What to train on: the mixture itself, or a baseline."""
    recommended_weights: FloatArray | None = None
    outcome: Outcome | None = None
    curve: FittedCurve | None = None
    judgement: Judgement | None = None
    insight: Insight | None = None
    samples: Sequence[Sample] = ()

    def document(
        self, config: StudyConfig, tasks: Sequence[Task], affinities: Affinities, constraints: Constraints
    ) -> MixtureDocument:
        """The mixture as it was trained, with the certificate of those very weights."""
        family, given = self.family, config.mixture
        energy, gap = family.within.certificate(family.S, self.tau, self.weights, family.utility)
        floor = family.noise.taken_off if family.noise else None
        repaired_by = [family.repair.method] if family.repair else []
        return MixtureDocument(
            study=config.study,
            fingerprint=fingerprint("mixture", affinities.fingerprint, family.name, family.gamma, floor, *repaired_by),
            tasks=tuple(
                MixtureTask(
                    name=task.name,
                    weight=weight,
                    count=count,
                    available=task.facts.available,
                    source=task.facts.source,
                    tokens=task.facts.tokens_per_example,
                    held_by=tuple(held),
                    unit=task.unit.path,
                    withheld=task.withheld.unit if task.withheld else "",
                    low=known.low if known else None,
                    high=known.high if known else None,
                    inclusion=known.inclusion if known else None,
                )
                for task, weight, count, held, known in zip(
                    tasks,
                    self.weights.tolist(),
                    constraints.counts(self.weights).tolist(),
                    constraints.binding(self.weights),
                    self.insight.tasks if self.insight else [None] * len(tasks),
                    strict=True,
                )
            ),
            tau=self.tau,
            energy=energy,
            gap=gap,
            recommended=self.recommended,
            recommended_weights=self.recommended_weights,
            affinity=family.name,
            gamma=family.gamma,
            noise_floor=floor,
            repair=asdict(family.repair) if family.repair else None,
            merges=self.outcome.merges.as_json() if self.outcome and self.outcome.merges else None,
            beta=given.beta,
            lambda_=given.lambda_,
            share=given.share,
            prompt_format=config.model.prompt_format,
            separator=config.pool.separator,
        )
