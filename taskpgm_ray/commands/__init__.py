"""The commands of ``taskpgm``, a file each: ``add`` says what a command takes, and the function beside it runs it.

Nothing heavy is imported before a command runs: ``taskpgm --help`` has to answer at once, and ``taskpgm solve`` works
with NumPy, SciPy and Numba alone.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
