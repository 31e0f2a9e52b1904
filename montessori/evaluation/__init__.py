"""Measure models: losses, benchmarks, verdicts of judges, and the tests between two models."""
