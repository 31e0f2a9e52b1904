"""The settings of a run: the method, its data and models, and the block of each of its steps."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from montessori.settings.base import NOT_IN_FINGERPRINT, Frozen, Name
from montessori.settings.data import DataSource, PocketWorld, Source
from montessori.settings.execution import Budget, Compute
from montessori.settings.generation import Generation, Instructions, Responses
from montessori.settings.influence import Influence, Preferences, Probing
from montessori.settings.judge import Rating
from montessori.settings.models import Model
from montessori.settings.training import Dpo, Training, WarmUp

Method = Literal["montessori", "self-reward", "llm2llm"]


class Llm2llm(Frozen):
    """LLM2LLM (arXiv 2403.15042): new points like those that the student gets wrong."""

    new_share: float = Field(
        0.25, gt=0, le=1, description="Share of the training points that are generated anew in each iteration."
    )


class Refresh(Frozen):
    """When a night's challenger replaces the champion (`montessori refresh`, test in docs/explanation/method.md)."""

    level: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Significance level. The challenger is promoted if its p-value is lower.",
    )
    # Measured on students of one teacher in the pocket world: 27%, 8% and 5% false promotions with 1, 2 and 3 seeds.
    seeds: int = Field(
        3,
        ge=1,
        description="Pairs of students to train, each with a seed of its own. With 1, the test ignores the luck of a "
        "training.",
    )


class Evaluation(Frozen):
    """What a student is measured on besides the loss on the reference set."""

    accuracy: Literal["exact_match", "next_token"] = Field(
        "next_token",
        description="`exact_match`: share of greedy answers equal to the reference answer. `next_token`: share of the "
        "answers' tokens that the student predicts.",
    )
    max_tokens: int = Field(64, ge=1, description="Most tokens of a greedy answer, for `exact_match`.")
    batch_size: int = Field(64, ge=1, description="Examples in a batch.")


class Settings(Frozen):
    """A run of Montessori-Instruct or of a method to compare it with. Each run has Self-Instruct beside it."""

    name: Name = Field(description="Name of the run: small letters, digits, dots and hyphens.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random in the run.")
    method: Method = Field("montessori", description="How the teacher learns to generate better data.")
    iterations: int = Field(2, ge=0, description="Number of iterations of the method. 0: Self-Instruct alone.")
    update: Literal["instructions", "responses", "bootstrap"] = Field(
        "instructions",
        description="What the teacher learns: DPO on pairs of instructions, DPO on pairs of responses, or fine-tuning "
        "on its best outputs. Paper: instructions. The others are ablations.",
    )
    store: Annotated[str, NOT_IN_FINGERPRINT] = Field(
        "store", description="Where artifacts are kept: a folder, or s3://bucket/prefix."
    )
    pocket: PocketWorld = Field(PocketWorld(), description="Sizes of the pocket world's datasets.")
    seeds: Source = Field(
        DataSource(source="vicgalle/alpaca-gpt4"),
        description="Seed examples for the few-shot prompts. Paper: Alpaca GPT-4.",
    )
    reference: Source = Field(
        description="Reference set. A point's influence is the change of the loss on it. Paper: the first 256 "
        "instructions of AlpacaEval with GPT-4-turbo's answers."
    )
    test: Source | None = Field(None, description="Held-out set for the students. Null: the reference set.")
    teacher: Model | None = Field(
        None, description="The teacher. Optional where an endpoint generates and no teacher is tuned."
    )
    student: Model = Field(description="The student.")
    generation: Generation = Field(Generation(), description="Engine of the teacher.")
    instructions: Instructions = Field(Instructions(), description="How instructions are generated.")
    responses: Responses = Field(Responses(), description="How responses are generated.")
    probing: Probing = Field(Probing(), description="Sizes of the warm-up set and the probing set.")
    warm_up: WarmUp = Field(WarmUp(), description="The student's warm-up.")
    influence: Influence = Field(Influence(), description="How influence is measured.")
    preferences: Preferences = Field(Preferences(), description="How scores become preference pairs.")
    dpo: Dpo = Field(Dpo(), description="DPO of the teacher.")
    bootstrap: Training = Field(Training(), description="Fine-tuning of the teacher where `update` is bootstrap.")
    rating: Rating = Field(Rating(), description="The judge where the teacher learns from ratings.")
    llm2llm: Llm2llm = Field(Llm2llm(), description="Settings of LLM2LLM.")
    training_size: int = Field(10_000, ge=1, description="Points in each training set of a student. Paper: 10,000.")
    sft: Training = Field(Training(), description="Fine-tuning of the student.")
    transfer: dict[str, Model] = Field(
        {}, description="Further students by name. They learn from the same training sets as the student."
    )
    evaluation: Evaluation = Field(Evaluation(), description="How students are measured.")
    refresh: Annotated[Refresh, NOT_IN_FINGERPRINT] = Field(
        Refresh(), description="When a night's challenger replaces the champion."
    )
    compute: Annotated[Compute, NOT_IN_FINGERPRINT] = Field(Compute(), description="Where tasks run.")
    budget: Annotated[Budget, NOT_IN_FINGERPRINT] = Field(Budget(), description="What the run may cost.")

    @property
    def _tunes(self) -> bool:
        """Tell whether a teacher is tuned."""
        return self.iterations > 0 and self.method != "llm2llm"

    @property
    def _rates(self) -> bool:
        """Tell whether the teacher learns from ratings rather than from a warmed-up student."""
        return self._tunes and (self.method == "self-reward" or self.preferences.signal == "rating")

    @property
    def _answers(self) -> bool:
        """Tell whether a teacher learns from several answers to each instruction."""
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
