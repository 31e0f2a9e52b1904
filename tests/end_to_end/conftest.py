from harness import copy, environment, finished, four, here, montessori, only_models  # noqa: F401
