"""Prefect tasks: hand a stage's request to a place that runs it, and show how it goes."""
