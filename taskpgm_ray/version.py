"""The version of this package, and how it is installed."""

__version__ = "0.1.0"

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""vLLM's CPU build asks for a build of torch that only this index has."""
INSTALL = (
    f"pip install 'taskpgm-ray[gpu]', or without a GPU: pip install 'taskpgm-ray[cpu]' --extra-index-url {CPU_INDEX}"
)
"""What studies need."""
