"""A kernel on disk is never older than a kernel that was inlined into it, and computes the same bits as a fresh one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import taskpgm_ray


def test_an_edited_kernel_reaches_its_callers(tmp_path):
    """numba keys its cache by the caller's file; here a callee in another file changes between two processes."""
    package = tmp_path / "taskpgm_ray"
    package.mkdir()
    for part in ("numerics", "mrf", "affinity"):
        shutil.copytree(Path(taskpgm_ray.__file__).parent / part, package / part)
    shutil.copy(Path(taskpgm_ray.__file__).parent / "errors.py", package)
    (package / "__init__.py").write_text("")
    mrf = package / "mrf"
    (mrf / "__init__.py").write_text("")
    (mrf / "callee.py").write_text(KERNEL.format(name="answer", body="return 1.0"))
    (mrf / "caller.py").write_text(
        "from taskpgm_ray.mrf.callee import answer\n" + KERNEL.format(name="ask", body="return answer()")
    )
    assert ask(tmp_path) == "1.0"
    (mrf / "callee.py").write_text(KERNEL.format(name="answer", body="return 2.0"))
    assert ask(tmp_path) == "2.0"


KERNEL = "from taskpgm_ray.numerics.compile import kernel\n\n\n@kernel\ndef {name}():\n    {body}\n"


def ask(root):
    code = "from taskpgm_ray.mrf.caller import ask; print(ask())"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


BITS = """
import hashlib
import numpy as np
from taskpgm_ray.affinity import JSDSums, jsd_matrix
from taskpgm_ray.mrf import path

rng = np.random.default_rng(0)
points = rng.normal(size=(60, 5))
traced = path(np.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 8))
singular = path(points[:, :3] @ points[:, :3].T + 1)
logits = rng.normal(size=(5, 40, 30))
logprobs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[:, :, :29]
sums = JSDSums(tuple("abcde")).add(logprobs, list(range(40))).sums
for found in (traced.tau, traced.weights, singular.weights, jsd_matrix(logprobs), sums):
    print(hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest())
"""


def test_a_process_that_compiles_and_one_that_finds_the_cache_agree_to_the_bit(tmp_path):
    """The weights of a mixture are part of what its fine-tune is called: other bits would have it trained again."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    compiled, cached = (
        subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert len(compiled.split()) == 5
    assert compiled == cached
