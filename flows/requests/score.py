"""The stages of `montessori score`, in order: rows, perhaps a warm-up, the reference gradient, shards of influence."""

from dataclasses import dataclass
from typing import Any

from flows.requests.builder import Address, Requests
from montessori.artifacts import Request
from montessori.settings.score import Scoring
from montessori.settings.training import WarmUp

# A shard is what a kill can lose, and costs one loading of the student. `exact` reads the whole reference set a point.
POINTS_A_SHARD = {"taylor": 256, "directional": 256, "exact": 16}
ON_A_GPU = 8  # times as many: points go faster there, and the libraries are imported for every shard


@dataclass(frozen=True)
class ScorePlan:
    """The requests of a command, each after those that make its inputs, and which of them matter afterwards."""

    requests: dict[Address, Request]
    points: Address
    scores: list[Address]  # a shard each
    split: Address | None  # whose `warm-up.parquet` the student was warmed up on
    dtype: str  # of the student's weights

    @property
    def shards(self) -> int:
        """How many parts the points are scored in."""
        return len(self.scores)


def plan(asked: Scoring, found: dict[str, str], points: int, gpu: bool) -> ScorePlan:
    """What `asked` comes to for so many `points`; `found` are the addresses of its sources."""
    requests = Requests()

    def add(
        task: str,
        role: str,
        settings: dict[str, Any],
        inputs: dict[str, list[Address]],
        shard: tuple[int, int] = (0, 1),
    ) -> Address:
        return requests.add(task, settings, inputs, seed=asked.seed, role=role, shard=shard)

    exact = asked.estimator == "exact"
    dtype = (asked.exact_dtype or "float32") if exact else asked.dtype or ("bfloat16" if gpu else "float32")
    loading = {"dtype": dtype, "max_length": asked.max_length, "trust_remote_code": asked.trust_remote_code}
    step = {"learning_rate": asked.learning_rate}
    source = {"split": asked.split, "skip": 0, "limit": asked.limit}
    rows = add("points", "points", source, {"source": [found["points"]]})
    whole = {"split": "train", "skip": 0, "limit": None}
    reference = add("reference", "reference set", whole, {"source": [found["reference"]]})

    student, split = found["student"], None
    if asked.warm_up:
        sizes = {"warm_up": asked.warm_up, "probing": 0, "file": "rows.parquet"}
        split = add("split", "rows to warm up on", sizes, {"pairs": [rows]})
        training = {"training": WarmUp(), **loading, "lora": None}
        student = add("warm-up", "warm-up", training, {"student": [student], "split": [split]})
    at = {"student": [student]}
    if "optimizer" in found:
        at["optimizer"] = [found["optimizer"]]

    cut = {
        "file": "rows.parquet",
        "limit": None,
        "token_budget": asked.token_budget,
        "max_length": asked.max_length,
        "trust_remote_code": asked.trust_remote_code,
    }
    tokens = add("tokens", "tokens", cut, {"student": [student], "points": [rows]})
    against: dict[str, list[Address]] = {} if asked.estimator == "taylor" else {"reference": [reference]}
    if not exact:
        measuring = {**at, "reference": [reference]}
        against["gradient"] = [add("reference-gradient", "reference gradient", {**loading, **step}, measuring)]
    settings = {
        "estimator": asked.estimator,
        "exact_dtype": asked.exact_dtype or "float32",
        "state_dtype": asked.state_dtype,
        "token_budget": asked.token_budget,
        **loading,
        **step,
    }
    count = asked.shards or -(-points // (POINTS_A_SHARD[asked.estimator] * (ON_A_GPU if gpu else 1)))
    scores = [
        add("influence", "influence", settings, {**at, "tokens": [tokens], **against}, shard=(index, count))
        for index in range(count)
    ]
    return ScorePlan(requests.by_address, rows, scores, split, dtype)
