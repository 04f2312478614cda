"""Scoring: every adapter's predictive distributions on one common probe set."""
