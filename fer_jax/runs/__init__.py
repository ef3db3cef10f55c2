"""A run's folder, and what lies in it.

In come a run's state, its metrics and its claim to the folder; out go checkpoints, weights, logs and records, and the same read back
and checked.
"""
