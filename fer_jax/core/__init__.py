"""What has nothing to do with faces.

In come what a user typed and what lies on the disk; out go a checked configuration, whole files, keyed random streams, the devices as
one mesh, statistics of numbers, and errors that are one line.
"""
