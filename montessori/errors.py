"""What can go wrong, as one small tree.

MontessoriError
├── InputError    the user can mend it: a setting, a file, a model folder.  Exit code 2, never retried.
├── StageError    a stage could not do its work (a teacher that only repeats itself, a training that diverged).
│   └── BudgetReached    what the run may cost is used up; what was made is kept.
├── StoreUnreachable  the store does not answer, or says that it cannot: worth another try.
└── ArtifactError the store holds something that it should not: a missing or a changed file.
"""


class MontessoriError(Exception):
    """Base of all errors that this package raises on purpose."""


class InputError(MontessoriError):
    """Wrong input: the message names the field or the line, and what would be right."""


class StageError(MontessoriError):
    """A stage ran on good input and still could not produce its artifact."""


class BudgetReached(StageError):
    """What a run may cost is used up: nothing was lost, and with a larger budget it goes on."""


class StoreUnreachable(MontessoriError):
    """The store's server does not answer, even after tries for a minute, or says that it cannot."""


class ArtifactError(MontessoriError):
    """An artifact is missing, incomplete, or its bytes are not those that were committed."""
