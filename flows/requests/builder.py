"""Build the requests of a plan.

An address follows from the request alone, so each call returns it at once, before anything runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from montessori.artifacts import Request, Store
from montessori.budget import price_of
from montessori.settings.engines import OpenAI
from montessori.settings.execution import Budget, Compute
from tasks.registry import TASKS

Address = str
Shards = list[Address]  # the artifacts of all shards of one task


@dataclass(frozen=True)
class Who:
    """The system of an artifact, with its iteration and the part of the work."""

    system: str = ""
    iteration: int | None = None
    part: str = ""

    def within(self, part: str) -> "Who":
        """Return the same for a part of the work."""
        return replace(self, part=", ".join(name for name in (self.part, part) if name))

    @property
    def name(self) -> str:
        """Return the display text."""
        named = f"{self.system} iteration {self.iteration}" if self.iteration else self.system
        return ", ".join(part for part in (named, self.part) if part)


NOBODY = Who()


@dataclass(frozen=True)
class Plan:
    """The requests of a command or flow, each after the requests of its inputs, with their store and place."""

    store: Store
    compute: Compute
    vllm_python: str
    requests: Mapping[Address, Request]
    address: Address  # of the final artifact

    @property
    def missing(self) -> list[Request]:
        """Return the requests without an artifact in the store."""
        return [request for request in self.requests.values() if not self.store.exists(request.address)]


class Requests:
    """Collects requests by their address, in order."""

    def __init__(self, cell: str = ""):
        self.by_address: dict[Address, Request] = {}
        self._cell = cell

    def add(
        self,
        task: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Sequence[Address]],
        *,
        seed: int,
        role: str = "",
        who: Who = NOBODY,
        shard: tuple[int, int] = (0, 1),
        means: Mapping[str, Any] | None = None,
        kept_as: str = "",
    ) -> Address:
        """Add the request of one artifact, and return its address. Blocks of settings are dumped.

        `kept_as` ("runs/tiny") gives the artifact a name, followed by eight digits of its fingerprint.
        """
        request = Request(
            stage=task,
            version=TASKS[task].version,
            settings={k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in settings.items()},
            inputs={name: list(addresses) for name, addresses in inputs.items()},
            seed=seed,
            shard=shard,
            system=who.system,
            iteration=who.iteration,
            part=who.part,
            role=role,
            cell=self._cell,
            means=dict(means or {}),
        )
        if kept_as:
            request = request.model_copy(update={"kept_as": f"{kept_as}-{request.fingerprint[:8]}"})
        self.by_address.setdefault(request.address, request)
        return request.address

    def set_budget(self, budget: Budget, tasks: Sequence[str] = ()) -> None:
        """Give the requests, or those of `tasks`, a `budget` that they share."""
        limits = budget.model_dump(exclude_none=True)
        if not limits:
            return
        parts = [request for request in self.by_address.values() if not tasks or request.stage in tasks]
        paid = [part for part in parts if part.settings.get("engine") == "openai"]
        prices = {part.address: price_of(OpenAI.model_validate(part.means["openai"])) for part in paid}
        shared = {
            "limits": limits,
            "parts": [part.address for part in parts],
            "paid": {address: price.model_dump() for address, price in prices.items() if price},
        }
        for part in parts:
            self.by_address[part.address] = part.model_copy(update={"means": {**part.means, "budget": shared}})
