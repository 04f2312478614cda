"""What a run stands on: the Ray cluster, the study's lease, its progress, and the contract that stages take."""
