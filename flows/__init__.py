"""Prefect flows: the order of the stages, and the command line."""
