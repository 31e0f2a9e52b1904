from stack import images, ran, stack  # noqa: F401
