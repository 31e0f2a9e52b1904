"""Plan `montessori score`: rows, an optional warm-up, the reference gradient and the shards of influence."""

from dataclasses import dataclass
from typing import Any

from flows.requests.builder import Address, Requests
from montessori.artifacts import Request
from montessori.settings.score import Scoring
from montessori.settings.training import WarmUp

# A kill loses a shard at most. A shard loads the student once. `exact` reads the reference set for every point.
POINTS_A_SHARD = {"taylor": 256, "directional": 256, "exact": 16}
ON_A_GPU = 8  # times as many: points are faster there, and every shard imports the libraries

WARM_UP_STEPS = 16  # at least: AdamW's first moment remembers about 10 steps


@dataclass(frozen=True)
class ScorePlan:
    """The requests of a command, each after the requests of its inputs, with the addresses of the results."""

    requests: dict[Address, Request]
    points: Address
    scores: list[Address]  # one for each shard
    split: Address | None  # of the warm-up set
    dtype: str  # of the student's weights

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return len(self.scores)


def warm_up_training(points: int) -> WarmUp:
    """Return the training of a warm-up on a number of `points`, with as many passes as it takes for WARM_UP_STEPS."""
    settings = WarmUp()
    return WarmUp(epochs=-(-WARM_UP_STEPS // -(-points // settings.batch_size)))


def plan(options: Scoring, addresses: dict[str, str], points: int, gpu: bool) -> ScorePlan:
    """Return the plan for a number of `points`. `addresses` are those of the sources."""
    requests = Requests()

    def add(
        task: str,
        settings: dict[str, Any],
        inputs: dict[str, list[Address]],
        *,
        role: str,
        shard: tuple[int, int] = (0, 1),
    ) -> Address:
        return requests.add(task, settings, inputs, seed=options.seed, role=role, shard=shard)

    exact = options.estimator == "exact"
    dtype = (options.exact_dtype or "float32") if exact else options.dtype or ("bfloat16" if gpu else "float32")
    loading: dict[str, Any] = {"dtype": dtype, "max_length": options.max_length, "chat": options.chat}
    loading["trust_remote_code"] = options.trust_remote_code
    step = {"learning_rate": options.learning_rate}
    rows = add("points", options.points().part(), {"source": [addresses["points"]]}, role="points")
    reference = add("reference", options.against().part(), {"source": [addresses["reference"]]}, role="reference set")

    student, split = addresses["student"], None
    if warm_up := options.warm_up_points(points):
        sizes = {"warm_up": warm_up, "probing": 0, "file": "rows.parquet"}
        split = add("split", sizes, {"pairs": [rows]}, role="rows to warm up on")
        training = {"training": warm_up_training(warm_up), **loading, "lora": None}
        student = add("warm-up", training, {"student": [student], "split": [split]}, role="warm-up")
    at = {"student": [student]}
    if "optimizer" in addresses:
        at["optimizer"] = [addresses["optimizer"]]
    if "checkpoint" in addresses:
        reading = {"trust_remote_code": options.trust_remote_code, "vouched": options.optimizer == "adamw"}
        read = {"student": [student], "checkpoint": [addresses["checkpoint"]]}
        at["optimizer"] = [add("optimizer-state", reading, read, role="optimiser state")]

    cut = {
        "file": "rows.parquet",
        "limit": None,
        "token_budget": options.token_budget,
        **{name: loading[name] for name in ("max_length", "trust_remote_code", "chat")},
    }
    tokens = add("tokens", cut, {"student": [student], "points": [rows]}, role="tokens")
    against: dict[str, list[Address]] = {} if options.estimator == "taylor" else {"reference": [reference]}
    if not exact:
        measuring = {**at, "reference": [reference]}
        against["gradient"] = [add("reference-gradient", {**loading, **step}, measuring, role="reference gradient")]
    settings = {
        "estimator": options.estimator,
        "exact_dtype": options.exact_dtype or "float32",
        "state_dtype": options.state_dtype,
        "token_budget": options.token_budget,
        **loading,
        **step,
    }
    count = options.shards or -(-points // (POINTS_A_SHARD[options.estimator] * (ON_A_GPU if gpu else 1)))
    scores = [
        add("influence", settings, {**at, "tokens": [tokens], **against}, role="influence", shard=(index, count))
        for index in range(count)
    ]
    return ScorePlan(requests.by_address, rows, scores, split, dtype)
