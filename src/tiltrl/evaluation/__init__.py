"""Evaluation: rollouts, scores with intervals, table and picture."""
