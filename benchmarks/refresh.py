"""Measure how often the nightly refresh would promote a challenger that is no better: students of one teacher.

    .venv/bin/python benchmarks/refresh.py [--students 16] [--config FILE] [--store DIR] [--set key=value]…

Each student has seeds of its own, as each pair of a night has. Two groups of them are compared as champion's and
challenger's, so every promotion is a false one. Prints the table of docs/results/refresh.md.
"""

import argparse
import itertools
import random
import statistics

from flows.methods.montessori_instruct import request_base, teach
from flows.requests.builder import Who
from flows.requests.steps import Steps
from montessori.artifacts import open_store
from montessori.data import sources
from montessori.data.rows import read_rows
from montessori.evaluation.paired import Losses, compare
from montessori.settings import files
from tasks.runtime import engines
from tasks.runtime.local import local_executor

LEVEL = 0.05
DRAWS = 4000


def main() -> None:
    """Train the missing students, then compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=16)
    parser.add_argument("--config", default="montessori/configs/tiny.yaml")
    parser.add_argument("--store", default="store")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options = parser.parse_args()
    losses = _taught(options)
    means = [statistics.fmean(student) for student in losses]
    print(
        f"Reference loss {statistics.fmean(means):.3f}, standard deviation over seeds {statistics.stdev(means):.3f}.\n"
    )
    print("| pairs of students | promoted | were seeds only averaged |\n| ---: | ---: | ---: |")
    for pairs in (1, 2, 3, 5):
        promoted = [_promoted(*groups) for groups in _groups(losses, pairs)]
        shares = (f"{statistics.fmean(share):.1%}" for share in zip(*promoted, strict=True))
        print(f"| {pairs} | {' | '.join(shares)} |")


def _taught(options: argparse.Namespace) -> list[Losses]:
    """Return the losses of each student on the reference set."""
    settings = files.load(options.config, [f"store={options.store}", *options.overrides])
    settings = engines.resolve(settings)
    store = open_store(settings.store)
    steps = Steps(settings, sources.addresses(settings))
    start = request_base(steps)
    names = [f"null {number}" for number in range(options.students)]
    students = [teach(steps, start, start.writer, Who(name), purpose=name, training_purpose=name) for name in names]
    with local_executor(store, settings.compute) as executor:
        for request in steps.requests.values():
            executor.submit(request)
        executor.finish()
    tables = (read_rows(store.open(student.metrics) / "losses.parquet") for student in students)
    return [[row["loss"] for row in table if row["set"] == "reference"] for table in tables]


def _groups(losses: list[Losses], pairs: int) -> list[tuple[list[Losses], list[Losses]]]:
    """Return groups of champion's and challenger's students: every choice of one each, or random choices of more."""
    if pairs == 1:
        return [([a], [b]) for a, b in itertools.permutations(losses, 2)]
    draw = random.Random(0)
    chosen = (draw.sample(losses, 2 * pairs) for _ in range(DRAWS))
    return [(students[:pairs], students[pairs:]) for students in chosen]


def _promoted(champion: list[Losses], challenger: list[Losses]) -> tuple[bool, bool]:
    """Return whether the refresh promotes, and whether it would if it averaged the pairs and ignored their spread."""
    averaged = [[[statistics.fmean(each) for each in zip(*group, strict=True)]] for group in (champion, challenger)]
    return compare(champion, challenger).p_value < LEVEL, compare(*averaged).p_value < LEVEL


if __name__ == "__main__":
    main()
