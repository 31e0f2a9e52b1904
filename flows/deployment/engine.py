"""Start a flow run in a worker's process: `python -P -m flows.deployment.engine`, instead of `-m prefect.engine`.

Prefect puts the working folder first on the import path while it imports a flow. This module imports the packages of
Montessori before that, so that a user's own `tasks.py` or `flows/` in the working folder does not hide ours.
"""

import runpy

import montessori
import tasks

__all__ = ["montessori", "tasks"]

if __name__ == "__main__":
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
