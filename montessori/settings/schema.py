"""Every setting of a run, typed, with the paper's value as the default.

`config_file.py` reads them from YAML. A comment behind a default says where it comes from: "paper" is
Montessori-Instruct (arXiv 2410.14208), appendix tables.
Functions take the few values that they use; nothing below the flows sees the whole tree.
"""

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    ValidationInfo,
    field_validator,
    model_validator,
)

EstimatorName = Literal["taylor", "directional", "exact"]
Method = Literal["montessori", "self-reward", "llm2llm"]
Signal = Literal["influence", "training_loss", "rating"]
Split = Literal["zero", "momentum", "prompt_mean", "best_worst"]


class Frozen(BaseModel):
    """A settings block: unknown keys are errors, values never change after loading, numbers are finite (JSON's are)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, field: ValidationInfo) -> object:
        wanted = cls.model_fields[str(field.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {wanted, *get_args(wanted)}:
            raise ValueError("expected a number")
        return value


class DataSource(Frozen):
    """Where rows come from: a JSONL, JSON or Parquet file, a hub name, or `pocket`.

    On the hub a data set is `user/name[@revision]`, one of its files `hf://datasets/user/name[@revision]/file.json`.
    """

    source: str
    split: str = "train"  # of a hub data set
    skip: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _pocket_is_whole(self) -> Self:
        if self.source == "pocket" and (self.split, self.skip, self.limit) != ("train", 0, None):
            raise ValueError(
                "the pocket world has no split, skip or limit; its sizes are in pocket.seeds, reference, test"
            )
        return self


def _as_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", value):
        raise ValueError("expected small letters, digits, dots and hyphens, a letter or a digit first")
    return value


Name = Annotated[str, Field(max_length=60), AfterValidator(_as_name)]  # a part of addresses in the store


def _as_source(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


Source = Annotated[DataSource, BeforeValidator(_as_source)]


class Lora(Frozen):
    """Train low-rank adapters instead of all weights; they are merged before the model writes anything."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class Scratch(Frozen):
    """A Llama built and trained from nothing, for machines without a GPU."""

    vocabulary: int = Field(1024, ge=300)
    hidden: int = Field(128, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    head_dim: int | None = Field(None, ge=8, multiple_of=2)  # default: hidden / heads; vLLM on a CPU wants 32 or 64
    context: int = Field(512, ge=64)
    steps: int = Field(600, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(3e-3, gt=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if not self.head_dim and self.hidden % (2 * self.heads):
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of twice heads ({self.heads})")
        return self


class Model(Frozen):
    """A teacher or a student: a local folder with safetensors, a hub name (`user/name[@revision]`), or `scratch`."""

    source: str
    scratch: Scratch | None = None  # required when source is `scratch`
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    max_length: int = Field(1024, ge=16)  # paper
    lora: Lora | None = None
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _scratch_needs_a_shape(self) -> Self:
        if (self.source == "scratch") != (self.scratch is not None):
            raise ValueError("give `scratch: {…}` when source is `scratch`, and `scratch: null` with another source")
        return self


class Sampling(Frozen):
    """How a model's next token is drawn.

    As in vLLM: presence and frequency count generated tokens, repetition the prompt's too.
    """

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)  # paper
    presence_penalty: float = Field(1.0, ge=-2, le=2)  # paper
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0)
    max_tokens: int = Field(1024, ge=1)  # paper
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # texts that end an answer, and are not part of it
    # Log probabilities to keep of the first token. At 0 it is in no dump: fingerprints stay what they were without it.
    top_logprobs: int = Field(0, ge=0, le=20, exclude_if=lambda count: count == 0)


class InstructionSampling(Sampling):
    """How instructions are drawn."""

    repetition_penalty: float = Field(1.5, gt=0)  # paper


class ResponseSampling(Sampling):
    """How responses are drawn."""

    temperature: float = Field(0.6, ge=0)  # paper


class Instructions(Frozen):
    """How the teacher writes new instructions from a few-shot prompt, and which are kept."""

    seed_shots: int = Field(6, ge=1)  # paper
    generated_shots: int = Field(2, ge=0)  # paper
    samples_per_prompt: int = Field(4, ge=1)  # paper
    prompts_per_round: int = Field(256, ge=1)  # at most: the last round asks for what the yield so far forecasts
    min_yield: float = Field(0.01, ge=0, lt=1)  # of generations kept, over three rounds; below it the teacher gave up
    sampling: InstructionSampling = InstructionSampling()
    min_characters: int = Field(6, ge=1)  # method.md: dropped at five or fewer
    max_characters: int = Field(400, ge=1)
    forbidden_words: tuple[str, ...] = (
        "image", "images", "graph", "graphs", "picture", "pictures", "file", "files",
        "map", "maps", "draw", "plot", "go to",
    )  # fmt: skip
    max_rouge_l: float = Field(0.7, ge=0, le=1)  # Self-Instruct, section 2.2


class Responses(Frozen):
    """How the teacher answers its own instructions."""

    sampling: ResponseSampling = ResponseSampling()
    shards: int = Field(1, ge=1)
    samples: int = Field(4, ge=2)  # of an instruction, where a teacher learns to answer (Self-Reward: 4)
    samples_temperature: float | None = Field(None, gt=0)  # theirs; None: as of the answers


class Price(Frozen):
    """What an API charges, in US dollars for a million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


def _http_address(text: str) -> str:
    try:
        address = HttpUrl(text)
    except ValueError:
        raise ValueError("expected an address like https://host/v1") from None
    if address.username or address.password or not text.isascii():
        raise ValueError("expected an address without a name or key in it; the key comes from the environment")
    return text.rstrip("/")


class OpenAI(Frozen):
    """An OpenAI-compatible endpoint. The key comes from the environment."""

    model: str | None = None  # as the endpoint calls it
    base_url: Annotated[str, AfterValidator(_http_address)] = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key
    max_concurrency: int = Field(256, ge=1)  # requests at once: begins at 8, grows while it goes well
    timeout_s: float = Field(600, gt=0)  # of one request
    price: Price | None = None  # default: the list price that montessori/spending.py knows


class Vllm(Frozen):
    """vLLM's offline engine, which runs in an environment of its own (`make vllm`)."""

    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    python: str = ".venv-vllm/bin/python"  # the interpreter of that environment


class Generation(Frozen):
    """Which engine the teacher writes with."""

    engine: Literal["auto", "transformers", "vllm", "openai"] = "auto"
    tuned_engine: Literal["auto", "transformers", "vllm"] = "auto"  # of the tuned teacher, where engine is openai
    batch_size: int = Field(64, ge=1)  # prompts at once, of transformers
    context: int | None = Field(None, ge=16)  # tokens of a prompt and its answer; default: as the model has
    openai: OpenAI = OpenAI()
    vllm: Vllm = Vllm()

    @model_validator(mode="after")
    def _openai_needs_a_model(self) -> Self:
        if self.engine == "openai" and not self.openai.model:
            raise ValueError("openai.model is missing: the name that the endpoint knows the model by")
        return self


class Budget(Frozen):
    """What a run may cost, all of its parts together, those found in the store too. Raised, the run goes on."""

    usd: float | None = Field(None, gt=0)  # paid to APIs
    tokens: int | None = Field(None, gt=0)  # read and written by the teacher
    hours: float | None = Field(None, gt=0)  # of all stages, side by side or not


class Probing(Frozen):
    """How many of the generated points warm the student up, and how many are scored."""

    warm_up: int = Field(10_000, ge=1)  # paper
    probing: int = Field(10_000, ge=1)  # paper
    student: Literal["previous", "base"] = "previous"  # whom iteration 2 and later probe


class Training(Frozen):
    """One fine-tuning run with AdamW."""

    learning_rate: float = Field(5e-6, gt=0)  # paper
    epochs: int = Field(1, ge=1)  # paper
    batch_size: int = Field(32, ge=1)  # paper: 2 a device, accumulation 2, 8 GPUs
    per_device_batch_size: int = Field(2, ge=1)  # paper
    warm_up_share: float = Field(0.1, ge=0, le=1)  # paper
    decay_share: float = Field(0.4, ge=0, le=1)  # paper: 0.5 stable between them
    min_learning_rate_ratio: float = Field(1e-3, ge=0, le=1)  # paper
    weight_decay: float = Field(0.0, ge=0)  # paper
    gradient_checkpointing: bool = False
    max_gradient_norm: float = Field(1.0, gt=0)
    # Ends after this share of the steps, the schedule as if it went on: a checkpoint on the way. At 1 in no dump.
    stop: float = Field(1.0, gt=0, le=1, exclude_if=lambda share: share == 1)

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.warm_up_share + self.decay_share > 1:
            raise ValueError("warm_up_share + decay_share must not exceed 1")
        if self.batch_size % self.per_device_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of "
                f"per_device_batch_size ({self.per_device_batch_size})"
            )
        return self


class WarmUp(Training):
    """The student's warm-up: its learning rate rises linearly to the end (method.md, step 6)."""

    warm_up_share: float = Field(1.0, ge=0, le=1)
    decay_share: float = Field(0.0, ge=0, le=1)


class Dpo(Training):
    """Direct preference optimisation of the teacher."""

    learning_rate: float = Field(1e-6, gt=0)  # paper
    batch_size: int = Field(2, ge=1)  # paper
    beta: float = Field(0.1, gt=0)  # paper


class Influence(Frozen):
    """How one optimiser step on a point is measured on the reference set."""

    estimator: EstimatorName = "taylor"
    shards: int = Field(1, ge=1)
    token_budget: int = Field(2048, ge=16)  # padded tokens of a batch
    state_dtype: Literal["float32", "bfloat16"] = "float32"  # of AdamW's moments and ∇L while points are scored
    exact_dtype: Literal["float32", "bfloat16"] = "float32"  # bfloat16 is the original's step: rounding noise
    after: bool = True  # score the updated teacher's points too, with the same student: for the report alone


class Preferences(Frozen):
    """How scores become pairs of a chosen and a rejected teacher output."""

    split: Split = "zero"  # paper; docs/method.md says when another is better
    max_pairs: int | None = Field(None, ge=1)  # a seeded sample when there are more
    # What a point's score is: an ablation of the paper. Influence is in no dump.
    signal: Signal = Field("influence", exclude_if=lambda signal: signal == "influence")

    @model_validator(mode="after")
    def _split_fits_the_signal(self) -> Self:
        if self.signal != "influence" and self.split in ("zero", "momentum"):
            raise ValueError(
                f"split ({self.split}) is a bound on influence; "
                f"with signal: {self.signal} set prompt_mean or best_worst"
            )
        return self


class Asked(Frozen):
    """A model that is asked to judge: where it is, and how often it may fail to."""

    source: str | None = None  # a model folder or hub name, where the engine loads one
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    trust_remote_code: bool = False
    batch_size: int = Field(16, ge=1)  # prompts at once, of transformers
    context: int | None = Field(None, ge=16)
    openai: OpenAI = OpenAI()
    vllm: Vllm = Vllm()
    max_tokens: int = Field(512, ge=1)  # of a verdict with its reason
    tries: int = Field(3, ge=1)  # of one verdict that cannot be read
    max_unreadable: int = Field(20, ge=1)  # of a stage, and half of its verdicts, before it gives up


class Rating(Asked):
    """Who rates points 1 to 5, as in Self-Reward (arXiv 2401.10020).

    teacher: the model that wrote them, as it is. rule: no model; in the pocket world 5 for a right answer, else 1.
    """

    engine: Literal["teacher", "rule", "transformers", "vllm", "openai"] = "teacher"

    @model_validator(mode="after")
    def _model_is_named(self) -> Self:
        if self.engine == "openai" and not self.openai.model:
            raise ValueError("openai.model is missing: the name that the endpoint knows the judge by")
        if (self.engine in ("transformers", "vllm")) != (self.source is not None):
            raise ValueError(
                "give `source`, a model folder or hub name, when engine is transformers or vllm, only then"
            )
        return self


class Llm2llm(Frozen):
    """LLM2LLM (arXiv 2403.15042): new points like those that the student gets wrong."""

    new_share: float = Field(0.25, gt=0, le=1)  # of the training points, written anew in each iteration


class Refresh(Frozen):
    """When a night's challenger replaces the champion (`montessori refresh`; docs/method.md has the test)."""

    level: float = Field(0.05, gt=0, lt=1)  # promoted if chance alone gave so large a gain less often than this
    seeds: int = Field(3, ge=1)  # pairs of students; with 1 their luck is not in the error: 27% false promotions, not 5


class Evaluation(Frozen):
    """What a student is measured on besides the reference set."""

    accuracy: Literal["exact_match", "next_token"] = "next_token"
    max_tokens: int = Field(64, ge=1)  # of a greedy answer, for exact_match
    batch_size: int = Field(64, ge=1)


class Compute(Frozen):
    """Where stages run. Nothing here changes an artifact, except the bits that a thread count changes on a CPU."""

    place: Literal["process", "inline", "pool"] = "process"
    deployment: str = "stage/stage"  # where place is pool: what runs a stage that needs torch
    threads: int = Field(1, ge=1)  # of one stage, where there is no GPU
    at_once: int | None = Field(None, ge=1)  # stages side by side; default: the GPUs, else cores // threads
    # Processes that share one training's weights, gradients and moments (FSDP2), each with a GPU of its own where there
    # are any. More than one is for models that no GPU holds: those that fit train side by side, a stage a GPU.
    training_processes: int = Field(1, ge=1)
    retries: int = Field(2, ge=0)
    retry_delay_s: float = Field(5, ge=0)


class PocketWorld(Frozen):
    """Sizes of the pocket world's data, used where a data source is `pocket`."""

    seeds: int = Field(160, ge=1)
    reference: int = Field(64, ge=1)
    test: int = Field(256, ge=1)


class Settings(Frozen):
    """One run of a method: Montessori-Instruct, or one that it is compared with, beside Self-Instruct."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    method: Method = "montessori"
    iterations: int = Field(2, ge=0)  # 0: Self-Instruct alone
    update: Literal["instructions", "responses", "bootstrap"] = "instructions"  # what the teacher learns (ablation)
    store: str = "store"
    pocket: PocketWorld = PocketWorld()
    seeds: Source = DataSource(source="vicgalle/alpaca-gpt4")  # paper
    reference: Source
    test: Source | None = None  # held-out points; default: the reference set
    teacher: Model | None = None  # may be left out where an endpoint writes and nothing is tuned
    student: Model
    generation: Generation = Generation()
    instructions: Instructions = Instructions()
    responses: Responses = Responses()
    probing: Probing = Probing()
    warm_up: WarmUp = WarmUp()
    influence: Influence = Influence()
    preferences: Preferences = Preferences()
    dpo: Dpo = Dpo()
    bootstrap: Training = Training()  # of the teacher, where update is bootstrap
    rating: Rating = Rating()
    llm2llm: Llm2llm = Llm2llm()
    training_size: int = Field(10_000, ge=1)  # paper
    sft: Training = Training()
    transfer: dict[str, Model] = {}  # further students, by name, that learn from what the others learn from
    evaluation: Evaluation = Evaluation()
    refresh: Refresh = Refresh()
    compute: Compute = Compute()
    budget: Budget = Budget()

    @property
    def _tunes(self) -> bool:
        """Whether a teacher is tuned."""
        return self.iterations > 0 and self.method != "llm2llm"

    @property
    def _rates(self) -> bool:
        """Whether the teacher learns from ratings, or else from what points do to a warmed-up student."""
        return self._tunes and (self.method == "self-reward" or self.preferences.signal == "rating")

    @property
    def _answers(self) -> bool:
        """Whether a teacher learns from several answers to one instruction."""
        return self._tunes and (self.method == "self-reward" or self.update == "responses")

    @model_validator(mode="after")
    def _teacher_is_there(self) -> Self:
        if self.teacher is None and (self.generation.engine != "openai" or self._tunes):
            raise ValueError(
                "teacher is missing: only generation.engine: openai can do without, "
                "with iterations: 0 or method: llm2llm"
            )
        return self

    @model_validator(mode="after")
    def _variants_fit(self) -> Self:
        for field, value, usual in (
            ("update", self.update, "instructions"),
            ("preferences.signal", self.preferences.signal, "influence"),
        ):
            if self.method != "montessori" and value != usual:
                raise ValueError(f"{field} ({value}) is a variant of method: montessori, not of {self.method}")
        if self.update == "responses" and self.preferences.signal == "rating":
            raise ValueError(
                "update (responses) takes its scores from a student; with preferences.signal: rating set "
                "update: instructions or bootstrap, or take method: self-reward, which has answers rated"
            )
        if self._rates and self.rating.engine == "rule" and self.seeds.source != "pocket":
            raise ValueError("rating.engine (rule) knows the answers of the pocket world alone; name a judge")
        if self._answers and not (self.responses.samples_temperature or self.responses.sampling.temperature):
            raise ValueError(
                "responses.sampling.temperature (0) makes all answers to an instruction the same, and they are to be "
                "compared: set responses.samples_temperature above 0"
            )
        if any(not name.strip() for name in self.transfer):
            raise ValueError('transfer."": a further student needs a name')
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        measures = self._tunes and not self._rates
        if measures and self.influence.shards > self.probing.probing:
            raise ValueError(
                f"influence.shards ({self.influence.shards}) exceeds the points to score "
                f"(probing.probing = {self.probing.probing})"
            )
        for name, sampling in (("instructions", self.instructions.sampling), ("responses", self.responses.sampling)):
            if self.generation.context and self.generation.context <= sampling.max_tokens:
                raise ValueError(
                    f"generation.context ({self.generation.context}) must exceed {name}.sampling.max_tokens "
                    f"({sampling.max_tokens}): a prompt needs room too"
                )
        trainings: dict[str, Training] = {"sft": self.sft}
        if measures:
            trainings["warm_up"] = self.warm_up
        if self._tunes:
            trainings |= {"bootstrap": self.bootstrap} if self.update == "bootstrap" else {"dpo": self.dpo}
        for name, training in trainings.items():
            at_once = training.per_device_batch_size * self.compute.training_processes
            if training.batch_size % at_once:
                raise ValueError(
                    f"{name}.batch_size ({training.batch_size}) must be a multiple of {name}.per_device_batch_size "
                    f"times compute.training_processes ({training.per_device_batch_size} x "
                    f"{self.compute.training_processes})"
                )
        if self._answers and self.responses.samples > self.probing.probing:
            raise ValueError(
                f"responses.samples ({self.responses.samples}) exceeds the points to score "
                f"(probing.probing = {self.probing.probing})"
            )
        points = {"answer": self.training_size}
        if self.iterations and self.method == "montessori":
            points["answer"] = min(self.training_size, self.probing.warm_up + self.probing.probing)
        if self.iterations and self.method == "llm2llm":
            points["answer"] = max(1, round(self.llm2llm.new_share * self.training_size))
        if self._rates and self.rating.engine != "rule":
            points["rate"] = self.probing.probing
        for what, count in points.items():
            if self.responses.shards > count:
                raise ValueError(f"responses.shards ({self.responses.shards}) exceeds the points to {what} ({count})")
        return self
