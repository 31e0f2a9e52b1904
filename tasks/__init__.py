"""The tasks of a run, one module each, and the runtime that executes them."""
