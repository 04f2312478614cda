"""`StudyResult`: what a finished study knows, as arrays, as pandas tables, and as figures that a notebook shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from taskpgm_ray.affinity.affinities import Affinities
from taskpgm_ray.mrf import MixturePath
from taskpgm_ray.report import ReportData
from taskpgm_ray.search.families import Family
from taskpgm_ray.storage import Storage

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


_OF_MIXTURE = ("weight", "low", "high", "inclusion", "count", "available", "epochs")


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What a finished study knows; the same is in its folder."""

    mixture: dict[str, Any]
    """The content of ``mixture.json``."""
    affinities: Affinities
    """Sums of the pool's scores, of which every affinity matrix is a view."""
    affinity: Family
    """The affinity that the mixture rests on (the winner's, after a search): ``S`` [n, n], ``gamma``, ``path``."""
    report: ReportData
    storage: Storage
    """The study's folder."""

    @property
    def path(self) -> MixturePath:
        """The mixtures of ``affinity`` at all balances."""
        return self.affinity.path

    def tasks(self) -> pd.DataFrame:
        """A row per task, by name: its weight with interval, examples, epochs, and what its own adapter learned."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for mixed, learned in zip(self.mixture["tasks"], self.report.tasks, strict=True):
            row = {
                key: mixed.get(key) for key in ("weight", "low", "high", "inclusion", "count", "available", "epochs")
            }
            row |= {name: float(weights[len(rows)]) for name, weights in self.report.baselines.items()}
            row |= {
                "loss_before": learned.heldout_loss_before,
                "loss_after": learned.heldout_loss_after,
                "usable": learned.usable and learned.usable.information,
                "usable_error": learned.usable and learned.usable.error,
                "source": learned.source,
            }
            rows.append(row)
        return pd.DataFrame(rows, index=pd.Index(self.report.names, name="task"))

    def matrix(self) -> pd.DataFrame:
        """S [n, n] of the mixture, with the tasks' names; `affinities` has the divergences it is made of."""
        import pandas as pd

        return pd.DataFrame(self.affinity.S, index=self.report.names, columns=self.report.names)

    def trials(self) -> pd.DataFrame:
        """A row per fine-tune of the search with its scores on the search split; empty without a search."""
        import pandas as pd

        return pd.DataFrame(
            [{k: v for k, v in asdict(trial).items() if k != "weights"} for trial in self.report.trials]
        )

    def comparisons(self) -> pd.DataFrame:
        """The mixture against every baseline and the base model on the report split; empty without a search."""
        import pandas as pd

        found = [*self.report.comparisons, *self.report.over_base]
        rows = [
            {"baseline": one.baseline, "scope": one.scope, **asdict(one.result), "p_adjusted": one.p_value}
            | {"verdict": one.verdict}
            for one in found
        ]
        return pd.DataFrame(rows)

    def figure(self, name: str) -> go.Figure:
        """A figure of the report: ``mixture``, ``path``, ``scores``, ``comparison``, ``affinity``, ``divergence``, ...

        Raises:
            InputError: The study has no such figure; it names those that it has.
        """
        from taskpgm_ray.report.inline import figure

        return figure(self.report, name)

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the verdict and the mixture."""
        from html import escape

        shown = self.tasks()[["weight", "count", "epochs"]].sort_values("weight", ascending=False).head(12)
        return f"<p><b>{escape(self.report.study)}</b>: {escape(self.report.verdict)}</p>{shown.to_html()}"
