"""What `montessori evaluate` measures, typed: a suite of benchmarks, with the paper's protocol as the default.

Read from YAML (`configs/suites/`) by `config_file.py`. "paper" is Montessori-Instruct (arXiv 2410.14208), section 4.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from montessori.settings.schema import Asked, Budget, Compute, DataSource, Frozen, Name, ResponseSampling, Source, Vllm

EngineName = Literal["transformers", "vllm", "openai"]


def _as_file(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


def _without_nulls(value: object) -> object:
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


TAKEN = ("losses", "alpaca_eval", "mt_bench", "duel", "overlap", "verdicts")  # what else is measured of a model


class File(Frozen):
    """A local file of a benchmark's items: JSONL, JSON, CSV or Parquet, gzip or not."""

    source: str


LocalFile = Annotated[File, BeforeValidator(_as_file)]


class Benchmark(Frozen):
    """A task of lm-evaluation-harness, on the hub's data or on files of one's own in the same form."""

    task: str  # as the harness calls it, for example arc_challenge
    metric: str  # the one that tables show, as the harness calls it, for example acc_norm,none
    shots: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)  # the first items of each of its subtasks; default: all
    shards: int = Field(1, ge=1)
    file: LocalFile | None = None  # in place of the hub's items
    shots_file: LocalFile | None = None  # in place of the hub's examples that are shown first

    @model_validator(mode="after")
    def _shots_have_a_source(self) -> Self:
        if self.file and self.shots and not self.shots_file:
            raise ValueError(f"shots_file is missing: {self.shots} examples are shown before each item of `file`")
        return self


class AlpacaEval(Frozen):
    """AlpacaEval 2.0: answers to 805 instructions, compared with a baseline's by the judge."""

    # The instructions, with GPT-4-turbo's answers as responses.
    questions: Source = DataSource(source="hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json")
    sampling: ResponseSampling = ResponseSampling()  # paper: as its responses
    # Instruction difficulties and gamed baselines of the length control: the library's df_gamed.csv. hub, a path, or
    # none: the control then knows lengths alone.
    difficulties: str = "hub"
    selected_on: int = Field(256, ge=0)  # the first instructions, on which the paper's students were selected
    shards: int = Field(1, ge=1)


class MtBench(Frozen):
    """MT-Bench: 80 questions of two turns, each answer graded 1 to 10 by the judge."""

    questions: Source = DataSource(source="HuggingFaceH4/mt_bench_prompts")
    references: LocalFile | None = None  # reference answers of a local `questions` file
    max_tokens: int = Field(1024, ge=1)  # MT-Bench's own
    shards: int = Field(1, ge=1)


class Judge(Asked):
    """Who compares and grades: a model behind one of the generation engines."""

    engine: EngineName
    prompts: str | None = None  # a file of prompts in MT-Bench's form, in place of our own

    @model_validator(mode="before")
    @classmethod
    def _engine_is_named(cls, given: Any) -> Any:
        if isinstance(given, dict) and "engine" not in given and given.keys() <= cls.model_fields.keys():
            raise ValueError("engine is missing; add it with source or openai.model, or give --judge ENGINE:MODEL")
        return given

    @model_validator(mode="after")
    def _model_is_named(self) -> Self:
        if self.engine == "openai" and not self.openai.model:
            raise ValueError("openai.model is missing: the name that the endpoint knows the judge by")
        if self.engine != "openai" and not self.source:
            raise ValueError("source is missing: the judge's model folder or hub name")
        return self


class Suite(Frozen):
    """Everything that is measured of a set of models."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    store: str = "store"
    reference: Source | None = None  # for the reference loss; default: of a run's students, the run's own
    # By the name that tables show; one that is null is left out.
    benchmarks: Annotated[dict[str, Benchmark], BeforeValidator(_without_nulls)] = Field({})
    alpaca_eval: AlpacaEval | None = None
    mt_bench: MtBench | None = None
    head_to_head: bool = False  # every pair of models on AlpacaEval's instructions, in both orders
    judge: Judge | None = None
    people: LocalFile | None = None  # human verdicts in PandaLM's form, to measure the judge on
    trained_on: Source | None = None  # training data whose overlap with the benchmarks is counted
    published: Literal["8B", "1.1B"] | None = None  # the paper's rows of students of that size stand beside
    engine: Literal["auto", "transformers", "vllm"] = "auto"  # of the models that are measured
    vllm: Vllm = Vllm()
    dtype: Literal["float32", "bfloat16"] | None = None  # default: bfloat16 where there is a GPU, else float32
    max_length: int = Field(1024, ge=16)  # paper; of the reference loss
    batch_size: int = Field(16, ge=1)
    trust_remote_code: bool = False
    compute: Compute = Compute()
    budget: Budget = Budget()  # of the judge, as of a run

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = [name for name in self.benchmarks if name in TAKEN or ":" in name]
        if taken:
            raise ValueError(f"benchmarks.{taken[0]}: this name is taken; give another one")
        return self
