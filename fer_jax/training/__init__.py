"""The step, the loop, one run, many runs.

In come a configuration and a data set; out go a run's folder with its checkpoints and scores, or a sweep's with many of them.
"""
