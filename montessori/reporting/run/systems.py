"""The systems that a run's report compares, as its request names them."""

from typing import Any

from montessori.errors import InputError
from montessori.settings.base import Frozen


class ReportedSystem(Frozen):
    """One system of a run. Its artifacts are the report's inputs `<name>:metrics`, `:student`, `:pairs` and so on."""

    name: str  # display text
    system: str  # Montessori, Self-Instruct, …
    iteration: int | None = None  # of the system; its own inputs are `<iteration>:teacher`, `:scores` and so on
    part: str = ""  # a further student, or a pair of a night


def systems_of(manifest: dict[str, Any]) -> list[ReportedSystem]:
    """Return the systems of a run from its manifest. Raises InputError for a run of version 0.1."""
    systems = manifest["request"]["settings"].get("systems")
    if systems is None:
        name = manifest["address"].partition("/")[2]
        raise InputError(
            f"RUN = {name}: version 0.1 made its report; run its run.yaml again, which remakes the report alone"
        )
    return [ReportedSystem.model_validate(system) for system in systems]
