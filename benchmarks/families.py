"""Count the families in the training sets of a study in the pocket world: the share of each one.

    .venv/bin/python benchmarks/families.py store/studies/pocket-<digits>

Prints the table of docs/results/pocket-study.md, over all seeds of the study's first student.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from montessori.pocket.world import FAMILIES, USEFUL, USELESS, family_of
from montessori.settings.study import TRANSFER

KINDS: dict[str, tuple[str | None, ...]] = {
    "asked for by the reference set": USEFUL,
    "without an answer to learn": USELESS,
    "others": tuple(family.name for family in FAMILIES if family.name not in (*USEFUL, *USELESS)),
    "unrecognised": (None,),
}


def main() -> None:
    """Read the training sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study's folder in the store")
    folder: Path = parser.parse_args().study
    store = folder.resolve().parents[1]
    request = json.loads((folder / "manifest.json").read_text())["request"]
    first = next(iter(request["settings"]["study"]["students"]))
    found: dict[str, Counter[str | None]] = {}
    for number, told in enumerate(request["settings"]["results"]):
        if told["student"] != first or told["group"] == TRANSFER:
            continue
        row = f"{told['group']}: {told['row']}" if told["group"] else told["row"]
        for address in request["inputs"][f"{number}:pairs"]:
            texts = pq.read_table(store / address / "pairs.parquet", columns=["instruction"])["instruction"].to_pylist()
            found.setdefault(row, Counter()).update(family_of(text) for text in texts)
    print(f"| share of the training sets (%) | {' | '.join(KINDS)} |")
    print(f"| --- |{' ---: |' * len(KINDS)}")
    for row, families in found.items():
        shares = (100 * sum(families[name] for name in names) / families.total() for names in KINDS.values())
        print(f"| {row} | {' | '.join(f'{share:.1f}' for share in shares)} |")


if __name__ == "__main__":
    main()
