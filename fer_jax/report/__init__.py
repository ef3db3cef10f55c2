"""Runs → tables and pages, without JAX.

In come the folders of finished runs; out go a page, Markdown, CSV and figures, with what may be said of differences.
"""
