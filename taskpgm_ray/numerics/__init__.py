"""What the mathematical rooms share: types, compiled kernels, checks and arithmetic. numpy, scipy and numba only."""
