"""The errors of this package, as one tree.

MontessoriError
├── InputError        the user can fix it: a setting, a file, a model folder. Exit code 2, never retried.
├── StageError        a task failed on good input, for example because a training diverged.
│   └── BudgetReached     the run has used up its budget. Its artifacts are kept.
├── StoreUnreachable  the store does not answer, or says that it cannot. A retry may help.
└── ArtifactError     an artifact is missing or has changed.
"""


class MontessoriError(Exception):
    """Base of all errors raised on purpose by this package."""


class InputError(MontessoriError):
    """Wrong input. The message names the field or the line, and the right value."""


class StageError(MontessoriError):
    """The failure of a task on good input."""


class BudgetReached(StageError):
    """The end of a budget. Nothing is lost, and the run goes on with a larger budget."""


class StoreUnreachable(MontessoriError):
    """A store without an answer after a minute of retries, or with an answer like 503."""


class ArtifactError(MontessoriError):
    """An artifact with missing or changed files."""
