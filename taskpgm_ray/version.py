"""The version of this package, and how it is installed."""

__version__ = "0.1.0"

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""vLLM's CPU build asks for a build of torch that only this index has."""
INSTALL_ON = {
    "gpu": "pip install 'taskpgm-ray[gpu]'",
    "cpu": f"pip install 'taskpgm-ray[cpu]' --extra-index-url {CPU_INDEX}",
}
"""What studies need, on machines with and without a GPU."""
INSTALL = f"{INSTALL_ON['gpu']}, or without a GPU: {INSTALL_ON['cpu']}"
