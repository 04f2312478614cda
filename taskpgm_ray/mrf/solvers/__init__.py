"""The engines behind `taskpgm_ray.mrf`: they take validated problems and check nothing."""
