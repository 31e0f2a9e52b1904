"""Measure the time and memory of filtering near-duplicates among 20,000 instructions.

    taskset -c 0 .venv/bin/python benchmarks/dedup.py [--instructions 20000] [--max-rouge-l 0.7] \\
        [--real alpaca_cleaned_full.jsonl.gz]

Each case admits its instructions one after another. The slowest cases accept all of them, because each instruction is
then compared with all before it. The script times `rouge_score` on a sample of the same pairs, and compares its
decisions. A second pass over the same number of instructions measures the memory of the filter, because tracing slows a
pass down. Seconds are processor time of one core. Prints a table.
"""

import argparse
import gzip
import itertools
import json
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer

from montessori.synthesis.dedup import NearDuplicates

SHORTEST, LONGEST = 8, 60  # tokens
SAMPLE = 2000  # pairs given to rouge_score


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=int, default=20_000)
    parser.add_argument("--max-rouge-l", type=float, default=0.7)
    parser.add_argument("--real", type=Path, help="JSONL, gzipped, with `instruction` and `input`")
    options = parser.parse_args()
    print("| instructions | accepted | s | pairs, million | µs a pair | of rouge_score | peak memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, texts in cases(options.instructions, options.real):
        measure(name, texts, options.max_rouge_l)


def cases(number: int, real: Path | None) -> Iterator[tuple[str, list[str]]]:
    """Yield names and instructions, generated again for each case."""
    draw = random.Random(0)
    words = [f"w{rank}" for rank in range(30_000)]
    rare = words[26:]
    cumulative = list(itertools.accumulate(1 / (1 + rank) for rank in range(len(words))))

    def zipf(tokens: int) -> list[str]:
        return draw.choices(words, cum_weights=cumulative, k=tokens)

    def of(head: list[str], shortest: int, longest: int) -> list[str]:
        return [" ".join(head + zipf(draw.randint(shortest, longest))) for _ in range(number)]

    yield "Zipf, 8–60 tokens", of([], SHORTEST, LONGEST)
    if real:
        yield "Alpaca, cut or joined to 8–60 words", list(itertools.islice(pieces(real, draw), number))
    yield "Zipf, all of 60 tokens", of([], LONGEST, LONGEST)
    yield "a head of 20 tokens, 20 of their own", of(words[:20], 20, 20)
    yield (
        "a head of 26 tokens, 14 rare ones",
        [" ".join(words[:26] + draw.sample(rare, 14)) for _ in range(number)],
    )
    yield "eight words, 60 tokens", [" ".join(draw.choices(words[:8], k=LONGEST)) for _ in range(number)]


def pieces(file: Path, draw: random.Random) -> Iterator[str]:
    """Return the text of `file`, instruction and input, in pieces that end with an instruction or at their length."""
    held: list[str] = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            held += f"{row['instruction']} {row['input']}".split()
            if len(held) >= SHORTEST:
                yield " ".join(held[: draw.randint(SHORTEST, LONGEST)])
                held = []


def measure(name: str, texts: list[str], max_rouge_l: float) -> None:
    """Admit `texts` twice, once for the time and once for the memory, and print a row."""
    near, accepted, pairs = NearDuplicates(max_rouge_l), 0, 0
    start = time.process_time()
    for text in texts:
        pairs += accepted
        accepted += near.admit(text)
    seconds = time.process_time() - start
    tracemalloc.start()
    traced = NearDuplicates(max_rouge_l)
    for text in texts:
        traced.admit(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(
        f"| {name} | {accepted:,} | {seconds:.1f} | {pairs / 1e6:.0f} | {seconds / pairs * 1e6:.3f} "
        f"| {of_rouge_score(texts, max_rouge_l) * 1e6:.0f} | {peak / 1e6:.0f} |",
        flush=True,
    )


def of_rouge_score(texts: list[str], max_rouge_l: float) -> float:
    """Return the seconds of rouge_score for a pair of `texts`."""
    draw, scorer = random.Random(1), RougeScorer(["rougeL"], use_stemmer=False)
    sample = [draw.sample(texts, 2) for _ in range(SAMPLE)]
    start = time.process_time()
    duplicates = [scorer.score(*pair)["rougeL"].fmeasure > max_rouge_l for pair in sample]
    seconds = time.process_time() - start
    for (one, other), duplicate in zip(sample, duplicates, strict=True):
        near = NearDuplicates(max_rouge_l)
        near.admit(one)
        if f"{one}{other}".isascii() and "_" not in f"{one}{other}" and near.admit(other) == duplicate:
            raise AssertionError(f"rouge_score decides otherwise: {one!r}, {other!r}")
    return seconds / SAMPLE


if __name__ == "__main__":
    main()
