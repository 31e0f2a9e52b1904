"""Montessori-Instruct: synthetic training data fitted to the student that learns from it."""

__version__ = "0.2.0"
