"""Campaigns of faults: what is done to runs and to files, how often, and what became of it. `python -m tests.faults --list`."""
