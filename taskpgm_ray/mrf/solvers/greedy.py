"""The engine of ``select``: lazy greedy, then single exchanges (docs/mathematics.md, section 8)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from taskpgm_ray.mrf.checks import FEASIBILITY
from taskpgm_ray.mrf.solvers.problem import Problem
from taskpgm_ray.mrf.solvers.subset import Subset, evaluate
from taskpgm_ray.numerics.types import BoolArray, FloatArray

IMPROVEMENT = 1e-13
"""A move must lower the energy by more than this, times the energy scale."""


@dataclass
class Greedy:
    """Moves between subsets of at most k tasks at one balance; counts the subsets that had to be solved."""

    problem: Problem
    tau: float
    k: int
    solved: int = 0

    def __post_init__(self) -> None:
        """Fix the scale below which a move is rounding."""
        self.threshold = IMPROVEMENT * self.problem.scale(self.tau)
        self.required: list[int] = np.flatnonzero(self.problem.lower > 0).tolist()

    def solve(self, tasks: Sequence[int], start: Subset | None = None) -> Subset:
        """The best mixture on these tasks."""
        self.solved += 1
        return evaluate(self.problem, self.tau, list(tasks), start)

    def grow(self, first: int | None = None) -> tuple[list[int], Subset]:
        """(order, subset): add the task of largest exact gain until k are chosen or none helps.

        A task whose weight falls to zero gives its place back, but every addition counts as one of the k, as the
        guarantee does.
        """
        order = self.first_tasks() if first is None else [first]
        state = self.solve(order)
        for _ in range(self.k - len(order)):
            move = self.addition(state, 0.0)
            if move is None:
                break
            state = move[1]
            order.append(move[0])
        return order, state

    def polish(self, state: Subset) -> tuple[Subset, int]:
        """(subset, exchanges): fill places that are free, then exchange single tasks, until nothing helps."""
        done = 0
        while True:
            move = self.addition(state, self.threshold) if len(state.members) < self.k else None
            better = move[1] if move else self.exchange(state)
            if better is None:
                return state, done
            state = better
            done += 1

    def first_tasks(self) -> list[int]:
        """The best single task; with bounds the required ones, and as many of the best as fill the mixture."""
        ranked: list[int] = np.argsort(self.single_energies(), kind="stable").tolist()
        if not self.problem.bounded:
            return ranked[:1]
        upper, chosen = self.problem.upper, list(self.required)
        largest = np.argsort(-upper, kind="stable").tolist()
        for j in ranked:
            if len(chosen) == self.k or (chosen and upper[chosen].sum() >= 1 - FEASIBILITY):
                break
            # Keep only tasks with which the places that are left can still fill the mixture.
            rest = [i for i in largest if i not in chosen and i != j][: self.k - len(chosen) - 1]
            if j not in chosen and upper[[*chosen, j, *rest]].sum() >= 1 - FEASIBILITY:
                chosen.append(j)
        return chosen

    def single_energies(self) -> FloatArray:
        """Energy of each task alone [n]."""
        return np.asarray(np.diag(self.problem.S) / 2 - self.tau * self.problem.b)

    def heaviest(self, full: FloatArray) -> list[Subset]:
        """The k heaviest tasks of the unrestricted mixture, where they can fill a mixture."""
        ranked = [i for i in np.argsort(-full, kind="stable").tolist() if i not in self.required]
        tasks = [*self.required, *ranked][: self.k]
        return [self.solve(tasks)] if self.problem.upper[tasks].sum() >= 1 - FEASIBILITY else []

    def addition(self, state: Subset, floor: float) -> tuple[int, Subset] | None:
        """(task, subset) of the largest gain above ``floor``; None when there is none."""
        bound, exact = state.gains()

        def trial(j: int) -> Subset:
            return self.solve([*state.members, j], state)

        best, found = self.largest(state, bound, floor, trial, exact)
        if best is None:
            return None
        return best, found or trial(best)

    def exchange(self, state: Subset) -> Subset | None:
        """The best exchange of one task for another; None when none lowers the energy."""
        n, members = self.problem.n, state.members
        if self.k == 1 or len(members) == 1:
            return None
        bound = np.full((len(members), n), -np.inf)
        reduced: dict[int, Subset | None] = {}
        table, valid = state.exchange_gains()
        for row, i in enumerate(members):
            rest = [m for m in members if m != i]
            if i in self.required or self.problem.upper[rest].sum() < 1 - FEASIBILITY:
                continue
            reduced[i] = state.without(i)
            if valid[row]:
                bound[row] = table[row]
            else:
                without = reduced[i] = self.solve(rest, reduced[i])
                bound[row] = without.gains()[0] - (without.energy - state.energy)
                bound[row, i] = -np.inf

        def trial(move: int) -> Subset:
            row, j = divmod(move, n)
            i = members[row]
            return self.solve([*(m for m in members if m != i), j], reduced[i])

        return self.largest(state, bound.ravel(), self.threshold, trial)[1]

    def largest(
        self,
        state: Subset,
        bound: FloatArray,
        floor: float,
        trial: Callable[[int], Subset],
        exact: BoolArray | None = None,
    ) -> tuple[int | None, Subset | None]:
        """(move, its subset if it was solved) of largest gain above ``floor``, by falling bound while that can win."""
        promising = np.flatnonzero(bound > floor)
        best, move, found = floor, None, None
        for m in promising[np.argsort(-bound[promising], kind="stable")].tolist():
            if bound[m] <= best:
                break
            if exact is not None and exact[m]:
                gain, subset = float(bound[m]), None
            else:
                subset = trial(m)
                gain = state.energy - subset.energy
            if gain > best:
                best, move, found = gain, m, subset
        return move, found
