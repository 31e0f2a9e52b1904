"""Environments as `pip install montessori[…]` makes them, without a download.

The wheel is installed for real. The packages that its extras ask for, and those that these ask for in turn, are links
to the ones beside this interpreter. All others are missing, as they would be for a user.
"""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


class Environment:
    """A virtual environment with the wheel, and an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path, *extras: str):
        self.python = folder / "venv" / "bin" / "python"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
        (self._packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
        (metadata,) = self._packages.glob("montessori-*.dist-info")
        self.packages = set(_needed(importlib.metadata.Distribution.at(metadata), set(extras), set()))
        for package in self.packages:
            self._link(importlib.metadata.distribution(package))

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of its commands: nothing that shows them the clone."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return kept | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}

    def montessori(self, *words: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run the installed command in the empty folder."""
        return subprocess.run(
            [self.python.with_name("montessori"), *map(str, words)],
            cwd=self.work,
            env=self.variables | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def _link(self, package: importlib.metadata.Distribution) -> None:
        files = package.files or []
        for top in {file.parts[0] for file in files if not file.parts[0].startswith("..")}:
            if top != "__pycache__" and not (link := self._packages / top).exists():
                link.symlink_to(Path(str(package.locate_file(top))))


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the clone into `folder`."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, folder, ROOT], check=True)
    (wheel,) = folder.glob("montessori-*.whl")
    return wheel


def _needed(package: importlib.metadata.Distribution, extras: set[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """The names of all packages that `package` with these extras needs here, itself left out."""
    for requirement in map(Requirement, package.requires or []):
        if not any(not requirement.marker or requirement.marker.evaluate({"extra": e}) for e in extras | {""}):
            continue
        name = canonicalize_name(requirement.name)
        own = name == canonicalize_name(package.metadata["Name"])  # an extra of ours that names another one
        new = {(name, extra) for extra in requirement.extras | {""}} - seen
        if new:
            seen |= new
            other = package if own else importlib.metadata.distribution(name)
            if not own:
                yield name
            yield from _needed(other, {extra for _, extra in new}, seen)
