"""The settings of an evaluation: a suite of benchmarks, with the paper's protocol as the default.

"Paper" is Montessori-Instruct (arXiv 2410.14208), section 4.
"""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from montessori.settings.base import NOT_IN_FINGERPRINT, Frozen, Name
from montessori.settings.data import DataSource, Source
from montessori.settings.engines import Vllm
from montessori.settings.execution import Budget, Compute
from montessori.settings.generation import ResponseSampling
from montessori.settings.judge import Judge
from montessori.settings.models import ChatModel, Dtype

# The scorecard's names for its other measures. No benchmark may have one of them.
RESERVED = ("losses", "alpaca_eval", "mt_bench", "duel", "overlap", "verdicts")


def _as_file(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


def _without_nulls(value: object) -> object:
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


class File(Frozen):
    """A local file of a benchmark's items."""

    source: str = Field(description="A JSONL, JSON, CSV or Parquet file, also compressed by gzip.")


LocalFile = Annotated[File, BeforeValidator(_as_file)]  # a path alone stands for the block


class Benchmark(Frozen):
    """A task of lm-evaluation-harness, on the hub's data or on local files in the same form."""

    task: str = Field(description="Name of the task in lm-evaluation-harness, for example arc_challenge.")
    metric: str = Field(
        description="Metric that the tables show, by its name in lm-evaluation-harness, for example acc_norm,none."
    )
    shots: int = Field(0, ge=0, description="Number of few-shot examples before each item.")
    limit: int | None = Field(None, ge=1, description="Number of items, from the start of each subtask. Null: all.")
    shards: int = Field(1, ge=1, description="Number of tasks that share the items.")
    file: LocalFile | None = Field(None, description="Local file of the items. Null: the hub's.")
    shots_file: LocalFile | None = Field(None, description="Local file of the few-shot examples. Null: the hub's.")

    @model_validator(mode="after")
    def _shots_have_a_source(self) -> Self:
        if self.file and self.shots and not self.shots_file:
            raise ValueError(f"shots_file is missing: {self.shots} examples are shown before each item of `file`")
        return self


class AlpacaEval(Frozen):
    """AlpacaEval 2.0: answers to 805 instructions, which the judge compares with a baseline's."""

    questions: Source = Field(
        DataSource(source="hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json"),
        description="The instructions, with the baseline's answers as responses. Default: GPT-4-turbo's answers.",
    )
    sampling: ResponseSampling = Field(
        ResponseSampling(), description="How the models draw tokens. Paper: as responses are drawn."
    )
    difficulties: str = Field(
        "hub",
        description="Instruction difficulties and gamed baselines for the length control: `hub`, or a copy of the "
        "library's df_gamed.csv. `none`: the control uses lengths alone.",
    )
    selected_on: int = Field(
        256,
        ge=0,
        description="Number of instructions, from the start, on which the students were selected. The others are also "
        "reported alone. Paper: 256.",
    )
    shards: int = Field(1, ge=1, description="Number of tasks that share the instructions of a model.")


class MtBench(Frozen):
    """MT-Bench: 80 questions of two turns. The judge grades each answer from 1 to 10."""

    questions: Source = Field(DataSource(source="HuggingFaceH4/mt_bench_prompts"), description="The questions.")
    references: LocalFile | None = Field(
        None, description="Local file of the reference answers, where `questions` is a local file without them."
    )
    max_tokens: int = Field(1024, ge=1, description="Most tokens of an answer. MT-Bench: 1024.")
    shards: int = Field(1, ge=1, description="Number of tasks that share the questions of a model.")


class Suite(ChatModel):
    """Everything that an evaluation measures of each model."""

    name: Name = Field(description="Name of the suite: small letters, digits, dots and hyphens.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random in the evaluation.")
    store: Annotated[str, NOT_IN_FINGERPRINT] = Field(
        "store", description="Where artifacts are kept: a folder, or s3://bucket/prefix."
    )
    reference: Source | None = Field(
        None, description="Reference set for the loss. Null: that of the run, for the students of a run."
    )
    benchmarks: Annotated[dict[str, Benchmark], BeforeValidator(_without_nulls)] = Field(
        {}, description="Benchmarks by the name that tables show. One that is null is left out."
    )
    alpaca_eval: AlpacaEval | None = Field(None, description="AlpacaEval 2.0. Null: left out.")
    mt_bench: MtBench | None = Field(None, description="MT-Bench. Null: left out.")
    head_to_head: bool = Field(
        False, description="Compare every pair of models on AlpacaEval's instructions, in both orders."
    )
    judge: Judge | None = Field(None, description="The judge. AlpacaEval and MT-Bench need one.")
    people: LocalFile | None = Field(
        None, description="Local file of human verdicts in PandaLM's form, to measure the judge on."
    )
    trained_on: Source | None = Field(None, description="Training data to search for items of the benchmarks.")
    published: Literal["8B", "1.1B"] | None = Field(
        None, description="Show the paper's results for students of this size beside the models."
    )
    engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto",
        description="Engine of the models. `auto`: vLLM where there is a GPU and vLLM's environment, else "
        "Transformers.",
    )
    vllm: Annotated[Vllm, NOT_IN_FINGERPRINT] = Field(Vllm(), description="Settings of vLLM.")
    dtype: Dtype | None = Field(
        None, description="Data type of the models' weights. Null: bfloat16 where there is a GPU, else float32."
    )
    max_length: int = Field(
        1024, ge=16, description="Longest example of the reference loss, prompt and answer, in tokens. Paper: 1024."
    )
    batch_size: int = Field(16, ge=1, description="Items in a batch of the Transformers engine.")
    compute: Annotated[Compute, NOT_IN_FINGERPRINT] = Field(Compute(), description="Where tasks run.")
    budget: Annotated[Budget, NOT_IN_FINGERPRINT] = Field(Budget(), description="What the judge may cost.")

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = [name for name in self.benchmarks if name in RESERVED or ":" in name]
        if taken:
            raise ValueError(f"benchmarks.{taken[0]}: this name is taken; give another one")
        return self
