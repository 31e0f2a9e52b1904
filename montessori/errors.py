"""The errors of this package, as one tree.

MontessoriError
├── InputError        the user can fix it: a setting, a file, a model folder. Exit code 2, never retried.
├── StageError        a task failed on good input, for example because a training diverged.
│   └── BudgetReached     the run has used up its budget. Its artifacts are kept.
├── StoreUnreachable  the store does not answer, or says that it cannot. A retry may help.
└── ArtifactError     an artifact is missing or has changed.
"""


class MontessoriError(Exception):
    """Base of all errors that this package raises on purpose."""


class InputError(MontessoriError):
    """Wrong input. The message names the field or the line, and what would be right."""


class StageError(MontessoriError):
    """A task that ran on good input and still could not produce its artifact."""


class BudgetReached(StageError):
    """A run that has used up its budget. Nothing is lost, and it goes on with a larger budget."""


class StoreUnreachable(MontessoriError):
    """A store whose server does not answer within a minute of retries, or says that it cannot."""


class ArtifactError(MontessoriError):
    """An artifact that is missing, incomplete, or differs from what was committed."""
