"""Tasks: sources, one tokenisation for everything, and the split into training examples and probes."""
