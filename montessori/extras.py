"""The extras of the package, and the libraries that each of them brings beside the base.

Code that needs an extra calls `require` before it imports anything of it. So a command that lacks a library ends with
one sentence and the `pip install` that mends it.
"""

from importlib.util import find_spec
from typing import Literal

from montessori.errors import InputError

Extra = Literal["score", "train", "openai", "evaluation", "s3", "flows"]

_SCORE = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "matplotlib")
LIBRARIES: dict[Extra, tuple[str, ...]] = {
    "score": _SCORE,
    "train": _SCORE,
    "openai": ("openai",),
    "evaluation": (*_SCORE, "lm_eval"),
    "s3": ("boto3",),
    "flows": ("prefect",),
}


def require(*extras: Extra, purpose: str) -> None:
    """Raise InputError unless all libraries of `extras` are installed.

    `purpose` begins the message: the option, the setting or the task that needs them.
    """
    missing = {extra: [name for name in LIBRARIES[extra] if not _installed(name)] for extra in extras}
    lacking = [extra for extra in extras if missing[extra] and not _within_another(extra, extras)]
    if lacking:
        names = list(dict.fromkeys(name for extra in extras for name in missing[extra]))
        verb = "is" if len(names) == 1 else "are"
        raise InputError(
            f"{purpose} needs {_enumerated(names)}, which {verb} not installed: "
            f"pip install 'montessori[{','.join(lacking)}]'"
        )


def _within_another(extra: Extra, extras: tuple[Extra, ...]) -> bool:
    """Tell whether another one of `extras` brings all libraries of this one. Of two equal ones the later one stays."""
    own, later = set(LIBRARIES[extra]), extras[extras.index(extra) + 1 :]
    return any(own < set(LIBRARIES[other]) for other in extras) or any(own == set(LIBRARIES[other]) for other in later)


def _installed(library: str) -> bool:
    """Tell whether `library` can be imported. A plain folder of that name on the path is no library."""
    found = find_spec(library)
    return found is not None and found.origin is not None


def _enumerated(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
