"""Search: candidate mixtures along the path and baselines, each trained on the lanes and scored by lm-eval."""
