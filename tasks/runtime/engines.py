"""Choose the engine for `auto`, and check before a start that the engines of a run can be had."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from montessori.artifacts import Request
from montessori.budget import price_of
from montessori.data import sources
from montessori.errors import InputError
from montessori.extras import require
from montessori.settings.engines import OpenAI
from montessori.settings.execution import Budget, Compute
from montessori.settings.judge import Judge, Rating
from montessori.settings.run import Settings
from montessori.settings.suite import Suite
from tasks import registry
from tasks.runtime.places import gpus

EngineName = Literal["auto", "transformers", "vllm", "openai"]


def resolve(settings: Settings) -> Settings:
    """Return `settings` with `auto` replaced: vLLM if this machine has a GPU and vLLM's environment, else transformers.

    The machines of a pool's workers are not known here, so a pool uses vLLM only where the settings name it.
    """
    generation = settings.generation
    chosen = {
        name: resolve_engine("auto", generation.vllm.python, local=settings.compute.place != "pool")
        for name in ("engine", "tuned_engine")
        if getattr(generation, name) == "auto" and (name == "engine" or generation.engine == "openai")
    }
    return settings.model_copy(update={"generation": generation.model_copy(update=chosen)})


def resolve_engine(engine: EngineName, python: str, local: bool = True) -> EngineName:
    """Return `engine`, or for `auto` vLLM if it can run on this machine and `local` is set, else transformers."""
    if engine != "auto":
        return engine
    return "vllm" if local and gpus() and _interpreter(python) else "transformers"


def describe(settings: Settings) -> str:
    """Return the engine of resolved settings in a few words, with a hint at a faster one."""
    generation = settings.generation
    if generation.engine == "openai":
        tuned = f", its tuned copies by {generation.tuned_engine}" if settings.iterations else ""
        return f"{generation.openai.model} at {generation.openai.base_url}{tuned}"
    if generation.engine == "transformers" and gpus():
        return "transformers (make vllm builds the environment of a faster one)"
    return generation.engine


def check(settings: Settings, missing: list[Request]) -> None:
    """Raise InputError when an engine or a hub model of one of the `missing` requests cannot be had."""
    named = {"teacher": settings.teacher, "student": settings.student, "rating": settings.rating}
    named |= {f"transfer.{name}": model for name, model in settings.transfer.items()}
    check_models(
        [(f"{role}.source", model.source) for role, model in named.items() if model], missing, settings.compute
    )
    outside = [model.source for model in named.values() if model and model.source not in (None, "scratch")]
    if outside and missing and settings.compute.place != "pool":  # a pool's workers have their own models
        from tasks.runtime import trial

        trial.check(settings, missing)
    rated = [request for request in missing if request.stage == "ratings"]
    if rated and settings.rating.engine != "teacher":
        check_judge(settings.rating, "rating", settings.compute, settings.budget)
        if settings.rating.engine == "vllm" and settings.rating.vllm.python != settings.generation.vllm.python:
            raise InputError(
                "rating.vllm.python: a run has one environment of vLLM; give generation.vllm.python the same"
            )
        missing = [request for request in missing if request.stage != "ratings"]
    needed = {request.settings["engine"] for request in missing if "engine" in request.settings}
    generation = settings.generation
    if "vllm" in needed:
        _check_place("vllm", generation.vllm.python, "generation.vllm", settings.compute)
    if "openai" in needed:
        _check_price(generation.openai, "generation.openai", settings.budget)
        require("openai", purpose="generation.engine = openai")
        from montessori.synthesis.engines.openai import OpenAIEngine

        engine = OpenAIEngine(generation.openai)
        for name in ("instructions", "responses"):
            try:
                engine.parameters(getattr(settings, name).sampling)
            except InputError as error:
                raise InputError(f"{name}.{error}") from None


def check_room(settings: Settings, missing: list[Request]) -> None:
    """Raise InputError where an answer of the longest allowed length fills the context of a teacher from scratch."""
    if not (missing and settings.teacher and settings.teacher.scratch) or settings.generation.engine == "openai":
        return
    context = settings.teacher.scratch.context
    lengths = {
        f"{name}.sampling": getattr(settings, name).sampling.max_tokens for name in ("instructions", "responses")
    }
    if settings.rating.engine == "teacher" and any(request.stage == "ratings" for request in missing):
        lengths["rating"] = settings.rating.max_tokens
    for block, longest in lengths.items():
        if longest >= context:
            raise InputError(
                f"{block}.max_tokens = {longest}: leaves no room for a prompt in the context of the "
                f"teacher; set it lower, or teacher.scratch.context ({context}) higher"
            )


def check_models(named: Iterable[tuple[str, str | None]], missing: Iterable[Request], compute: Compute) -> None:
    """Raise InputError when a library or a hub model of one of the `missing` requests cannot be had.

    `named` are pairs of a field and the model in it. A pool is not checked, since its workers have their own libraries.
    """
    if compute.place != "pool":
        missing = list(missing)
        needed = dict.fromkeys(extra for request in missing for extra in registry.extras(request))
        require(*needed, purpose="computing on this machine")
        read = {address for request in missing for addresses in request.inputs.values() for address in addresses}
        sources.check_hub([(field, source) for field, source in named if source and f"hub:{source}" in read])


def check_suite(suite: Suite) -> None:
    """Raise InputError when the engine or the judge of a suite cannot be had."""
    _check_place(suite.engine, suite.vllm.python, "vllm", suite.compute)
    if suite.judge:
        check_judge(suite.judge, "judge", suite.compute, suite.budget)


def check_judge(judge: Judge | Rating, field: str, compute: Compute, budget: Budget) -> None:
    """Raise InputError when a judge cannot be had; `field` is its name in the settings."""
    _check_place(judge.engine, judge.vllm.python, f"{field}.vllm", compute)
    if judge.engine == "openai":
        require("openai", purpose=f"{field}.engine = openai")
        from montessori.synthesis.engines.openai import OpenAIEngine

        OpenAIEngine(judge.openai, f"{field}.openai")
        _check_price(judge.openai, f"{field}.openai", budget)


def _check_price(endpoint: OpenAI, field: str, budget: Budget) -> None:
    if budget.usd and not price_of(endpoint):
        raise InputError(
            f"budget.usd: the price of {endpoint.model} is not known; "
            f"set {field}.price={{input: …, output: …}}, in dollars for a million tokens"
        )


def _check_place(engine: str, python: str, field: str, compute: Compute) -> None:
    if engine == "vllm" and compute.place == "inline":
        raise InputError("compute.place = inline: vLLM runs under another interpreter; set it to process")
    if engine == "vllm" and compute.place == "process":  # a pool's workers have their own
        _check_vllm(python, field)


def _interpreter(python: str) -> Path | None:
    path = Path(python).expanduser()
    return path.absolute() if path.is_file() else None  # not resolved, since only the link is in the environment


def _check_vllm(python: str, field: str) -> None:
    path = _interpreter(python)
    if path is None:
        raise InputError(f"{field}.python = {python}: no such interpreter; `make vllm` builds the environment")
    code = "import importlib.util as u; print(bool(u.find_spec('vllm') and u.find_spec('montessori')))"
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    try:
        check = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise InputError(f"{field}.python = {python}: cannot be run ({error.strerror})") from None
    if check.stdout.strip() != "True":
        raise InputError(
            f"{field}.python = {python}: vllm and montessori are not both installed there; "
            "`make vllm` builds an environment that has them"
        )
