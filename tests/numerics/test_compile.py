"""A kernel on disk is never older than a kernel that was inlined into it."""

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
