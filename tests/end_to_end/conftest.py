from harness import copy, environment, finished, montessori, only_models  # noqa: F401
