"""Find the settings files that ship with the package, by name: `tiny`, the suite `quick`, the study `pocket`.

A value without a suffix and without a folder is such a name. Everything else is a path.
"""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from montessori.errors import InputError

Kind = Literal["settings", "suite", "study"]
FOLDERS: dict[Kind, str] = {"settings": "", "suite": "suites", "study": "studies"}
# The command that takes a file of each kind.
COMMANDS: dict[Kind, str] = {"settings": "run {}", "suite": "evaluate MODEL --suite {}", "study": "study {}"}
CONFIGS = Path(str(files("montessori"))) / "configs"


def names(kind: Kind) -> list[str]:
    """Return the names of all shipped files of one kind, sorted."""
    return sorted(path.stem for path in (CONFIGS / FOLDERS[kind]).glob("*.yaml"))


def is_name(given: str) -> bool:
    """Tell whether `given` is a name rather than a path."""
    return not given.endswith((".yaml", ".yml")) and "/" not in given and not Path(given).is_file()


def path_of(given: str, kind: Kind, field: str) -> Path:
    """Return the file that `given` means: a path as it is, or the shipped file of that name.

    `field` is the option or the form's field, for the error. Raises InputError for an unknown name.
    """
    if not is_name(given):
        return Path(given)
    path = CONFIGS / FOLDERS[kind] / f"{given}.yaml"
    if not path.is_file():
        for other, command in COMMANDS.items():
            if given in names(other):
                article = "" if other == "settings" else "a "
                raise InputError(
                    f"{field} = {given}: {article}{other}, no {kind}; `montessori {command.format(given)}` takes it"
                )
        known = ", ".join(names(kind))
        raise InputError(f"{field} = {given}: no {kind} of that name; known: {known}; or give the path of a YAML file")
    return path
