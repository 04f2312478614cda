"""One balance against general quadratic-programming solvers, in processor seconds: other programs change them least."""

from time import process_time

import cvxpy as cp
import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from jobs.benchmarks._common import clustered, medians, row
from taskpgm_ray.mrf import grid, solve
from taskpgm_ray.numerics.psd import cholesky

TAUS = np.linspace(0.0, 6.0, 32)


def peers(S, tau):
    """Name -> a function that solves the problem with that library."""
    import clarabel
    import daqp
    import osqp
    import piqp
    import quadprog

    n = len(S)
    q = -tau * S.mean(axis=1)
    ones, zeros = np.ones((1, n)), np.zeros(n)

    def run_daqp():
        A = np.ascontiguousarray(ones)
        low, high = np.append(zeros, 1.0), np.append(np.ones(n), 1.0)
        sense = np.zeros(n + 1, dtype=np.int32)
        sense[n] = 5
        return daqp.solve(S, q, A, high, low, sense)[0]

    def run_piqp():
        solver = piqp.DenseSolver()
        solver.settings.eps_abs = solver.settings.eps_rel = 1e-9
        solver.setup(S, q, ones, np.ones(1), None, None, None, zeros, np.full(n, np.inf))
        solver.solve()
        return np.array(solver.result.x)

    def run_clarabel():
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        A = sparse.vstack([sparse.csc_matrix(ones), -sparse.identity(n)], format="csc")
        cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n)]
        P = sparse.csc_matrix(np.triu(S))
        return np.array(clarabel.DefaultSolver(P, q, A, np.append(1.0, zeros), cones, settings).solve().x)

    def run_quadprog():
        return quadprog.solve_qp(S, -q, np.vstack([ones, np.eye(n)]).T, np.append(1.0, zeros), 1)[0]

    def run_osqp():
        solver = osqp.OSQP()
        A = sparse.vstack([sparse.csc_matrix(ones), sparse.identity(n)], format="csc")
        solver.setup(
            sparse.csc_matrix(np.triu(S)), q, A, np.append(1.0, zeros), np.ones(n + 1),
            eps_abs=1e-9, eps_rel=1e-9, max_iter=20000, polishing=True, verbose=False,
        )  # fmt: skip
        return solver.solve().x

    def run_cvxpy():
        p = cp.Variable(n)
        cp.Problem(cp.Minimize(cp.quad_form(p, cp.psd_wrap(S)) / 2 + q @ p), [cp.sum(p) == 1, p >= 0]).solve(
            solver=cp.CLARABEL
        )
        return p.value

    return {
        "daqp": run_daqp, "piqp": run_piqp, "clarabel": run_clarabel, "quadprog": run_quadprog, "osqp": run_osqp,
        "cvxpy+clarabel": run_cvxpy,
    }  # fmt: skip


def run():
    """Measure; rows as in jobs/benchmark.py."""
    rows = []
    tau = 2.0
    for n in (10, 50, 200, 1000):
        S = clustered(n)
        others = peers(S, tau)
        # Two of them take seconds there; one timed run is enough to see that.
        slow = {name: others.pop(name) for name in ("quadprog", "osqp")} if n == 1000 else {}
        with threadpool_limits(1):
            mine = {"ours": lambda S=S: solve(S, tau), "grid": lambda S=S: grid(S, TAUS)}
            times = medians({**mine, **others}, 3 if n == 1000 else 15, process_time)
            p = solve(S, tau).weights
            errors = {name: float(np.abs(function() - p).max()) for name, function in others.items()}
            for name, function in slow.items():
                start = process_time()
                errors[name] = float(np.abs(function() - p).max())
                times[name] = process_time() - start
            best = min(("daqp", "piqp", "clarabel"), key=times.get)
            if n == 1000:
                # The ratio that has a target, and what bounds it, in more turns.
                pair = {"ours": lambda S=S: solve(S, tau), best: others[best], "proof": lambda S=S: cholesky(S)}
                times |= medians(pair, 25, process_time)
        for name in (*others, *slow):
            target = 8 if n == 1000 and name == best else None
            rows.append(row(f"one balance, n = {n}, |dp| {errors[name]:.0e}", times["ours"], times[name], name, target))
        each = times["grid"] / len(TAUS)
        rows.append(row(f"one of 32 balances of one matrix, n = {n}", each, times[best], best))
        if n == 1000:
            what = "of one balance: the proof that S is positive definite, n = 1000"
            rows.append(row(what, times["proof"], times[best], best))
    return rows
