"""Measure generation speed: each engine on the same prompts, and the whole stage against the literal loop.

    make vllm
    taskset -c 0,1 .venv/bin/python benchmarks/generation.py [--config montessori/configs/tiny.yaml] [--set key=value]…
        [--instructions 2000] [--prompts 512] [--threads 2] [--store DIR] [--skip-literal]

Engines: generated tokens per second over the same few-shot prompts, with the time to load the model listed separately.
For vLLM's server also the overhead of an endpoint. The stage: `instructions` as `montessori run` runs it, and the share
of its time outside the engine. The literal loop works like the original's: batches of 16 prompts, and for each
candidate a pool of four processes that compare it with all accepted instructions by rouge_score. Engine, teacher and
filters are the same.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer

from flows.requests.run import plan
from montessori.artifacts import Folder, Request, Store
from montessori.data.rows import read_rows
from montessori.models.loading import load_model, load_tokenizer
from montessori.settings import files
from montessori.settings.engines import OpenAI
from montessori.settings.generation import Instructions
from montessori.settings.run import Settings
from montessori.synthesis.engines import Engine
from montessori.synthesis.engines.openai import OpenAIEngine
from montessori.synthesis.engines.transformers import TransformersEngine
from montessori.synthesis.filters import rejection_reason
from montessori.synthesis.instructions import build_prompt, stable_seed
from montessori.synthesis.prompts import parse_instruction
from tasks.runtime import worker

BATCH = 16  # of the original's loop
POOL = 4
PYTHON = Path(".venv-vllm/bin/python")
OFFLINE = """
import json, sys, time
from montessori.settings.generation import Sampling
from montessori.models.loading import load_tokenizer
from montessori.synthesis.engines.vllm import VllmEngine
source, dtype, asked = sys.argv[1], sys.argv[2], json.load(sys.stdin)
started = time.monotonic()
engine = VllmEngine(
    source,
    load_tokenizer(source),
    dtype=dtype,
    trust_remote_code=False,
    context=None,
    gpu_memory_utilization=0.9,
)
loaded = time.monotonic()
sampling = Sampling(**asked["sampling"])
answers = list(engine.generate(asked["prompts"], sampling, asked["samples"], range(len(asked["prompts"]))))
print("RESULT", loaded - started, time.monotonic() - loaded, sum(answer.tokens for _, answer in answers))
"""
SCORER = RougeScorer(["rougeL"], use_stemmer=False)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="montessori/configs/tiny.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--instructions", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", default="store")
    parser.add_argument("--skip-literal", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    overrides = [*options.overrides, "generation.engine=transformers", f"training_size={options.instructions}"]
    settings = files.load(options.config, overrides)
    store = Folder(options.store)
    requests = list(plan(settings)[0].requests.values())
    asked = next(r for r in requests if r.stage == "instructions")
    for request in requests:
        if request.address in {address for addresses in asked.inputs.values() for address in addresses}:
            worker.run(request, store, options.threads)
    torch.set_num_threads(options.threads)
    (address,) = asked.inputs["teacher"]
    teacher = str(store.open(address) / "model")
    seeds = read_rows(store.open(asked.inputs["seeds"][0]) / "rows.parquet")
    _engines(settings, teacher, seeds, options)
    ours = _stage(asked, store, options.threads)
    if not options.skip_literal:
        literal = _literal(settings, _transformers(settings, teacher), seeds, options.instructions)
        print(f"\nThe stage is {literal / ours:.1f} times as fast as the literal loop.")


def _transformers(settings: Settings, teacher: str) -> TransformersEngine:
    assert settings.teacher
    model = load_model(teacher, settings.teacher.dtype)
    return TransformersEngine(model, load_tokenizer(teacher), settings.generation.batch_size)


def _engines(settings: Settings, teacher: str, seeds: list[Any], options: argparse.Namespace) -> None:
    """Print the tokens per second of each engine."""
    asked = settings.instructions
    prompts = [build_prompt(f"bench-{n}", seeds, [], asked)["messages"] for n in range(options.prompts)]
    print(f"{len(prompts)} prompts, {asked.samples_per_prompt} texts each, {options.threads} threads\n")
    print("| engine | tokens | s | tokens/s | loading, s |\n| --- | ---: | ---: | ---: | ---: |")
    started = time.monotonic()
    engine = _transformers(settings, teacher)
    _row("transformers", *_timed(engine, prompts, asked), time.monotonic() - started)
    if not PYTHON.is_file():
        print("\nvLLM: no .venv-vllm; make vllm builds it")
        return
    assert settings.teacher
    question = {"prompts": prompts, "sampling": asked.sampling.model_dump(), "samples": asked.samples_per_prompt}
    done = subprocess.run(
        [PYTHON, "-c", OFFLINE, teacher, settings.teacher.dtype],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=True,
    )
    loading, seconds, tokens = map(float, done.stdout.split("RESULT")[1].split())
    _row("vLLM, offline", int(tokens), seconds, loading)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    server = subprocess.Popen(
        ["make", "server", f"MODEL={teacher}", f"PORT={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        while not _answers(url):
            if server.poll() is not None:
                sys.exit("the server did not start; try `make server MODEL=…` by hand")
            time.sleep(0.5)
        loading = time.monotonic() - started
        endpoint = OpenAI(model="teacher", base_url=url)
        _row("vLLM, as an endpoint", *_timed(OpenAIEngine(endpoint), prompts, asked), loading)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/models", timeout=5)
    except OSError:
        return False
    return True


def _timed(engine: Engine, prompts: list[Any], asked: Instructions) -> tuple[int, float]:
    started = time.monotonic()
    answers = list(engine.generate(prompts, asked.sampling, asked.samples_per_prompt, range(len(prompts))))
    return sum(answer.tokens for _, answer in answers), time.monotonic() - started


def _row(name: str, tokens: int, seconds: float, loading: float) -> None:
    print(f"| {name} | {tokens:,} | {seconds:.1f} | {tokens / seconds:,.0f} | {loading:.0f} |", flush=True)


def _stage(asked: Request, store: Store, threads: int) -> float:
    """Run the stage from an empty store, as a run does."""
    again = asked.model_copy(update={"seed": random.randrange(2**31)})  # its own address: nothing is cached
    started = time.monotonic()
    manifest = worker.run(again, store, threads)
    seconds = time.monotonic() - started
    engine = manifest["summary"]["usage"]["seconds"]
    print(f"\nThe stage: {manifest['summary']['instructions']:,} instructions in {seconds:.1f} s,")
    print(
        f"of which the engine and its loading {engine:.1f} s; not the engine: {1 - engine / seconds:.1%}.", flush=True
    )
    return seconds


def _literal(settings: Settings, engine: TransformersEngine, seeds: list[Any], target: int) -> float:
    """Run the original's loop and return its seconds."""
    asked = settings.instructions
    started = time.monotonic()
    kept: list[str] = []
    scoring, number = 0.0, 0
    while len(kept) < target:
        prompts = [build_prompt(f"literal-{number + n}", seeds, kept, asked) for n in range(BATCH)]
        number += BATCH
        answers = engine.generate(
            [prompt["messages"] for prompt in prompts],
            asked.sampling,
            asked.samples_per_prompt,
            [stable_seed(prompt["id"]) for prompt in prompts],
        )
        for i, answer in sorted(answers, key=lambda item: item[0]):
            for generation in answer.generations:
                text = parse_instruction(generation.text)
                if text is None or rejection_reason(text, asked) or len(kept) == target:
                    continue
                before = time.monotonic()
                with multiprocessing.Pool(POOL) as pool:
                    scores = pool.map(partial(_rouge, text), [*kept, *prompts[i]["seeds"]])
                scoring += time.monotonic() - before
                if max(scores) <= asked.max_rouge_l:
                    kept.append(text)
    seconds = time.monotonic() - started
    print(
        f"\nThe literal loop: {target:,} instructions in {seconds:.1f} s, of which ROUGE {scoring:.1f} s.", flush=True
    )
    return seconds


def _rouge(one: str, other: str) -> float:
    return float(SCORER.score(one, other)["rougeL"].fmeasure)


if __name__ == "__main__":
    main()
