"""Measure the accuracy of the rules for root verbs and objects on 60 rows labelled by hand.

    .venv/bin/python benchmarks/verbs.py --data DATA

DATA/seeds holds Self-Instruct's 175 seed tasks and 999 rows of Alpaca-GPT4. The rows are a random sample of those that
were unseen when the rules were written. They were labelled before the rules ran on them. Prints the table of
docs/results/evaluation.md, and the errors.
"""

import argparse
import json
from pathlib import Path

from montessori.reporting.study.verbs import root

# By row, from 0: the verb or question word, and the noun that is its direct object, in the singular.
LABELS = {
    "self_instruct_seed_tasks.jsonl": {
        1: "what", 11: "make list", 26: "link entity", 33: "create survey", 35: "solve equation", 39: "extract name",
        40: "make plan", 52: "suggest routine", 53: "return word", 60: "give definition", 65: "write collocation",
        68: "generate response", 80: "write list", 87: "write answer", 95: "explain", 100: "turn offer",
        103: "explain question", 114: "detect", 118: "how", 125: "write recipe", 132: "sort list", 134: "fill blank",
        136: "solve problem", 143: "give law", 154: "identify", 155: "decide", 159: "predict intent",
        161: "answer question", 171: "classify", 174: "tell",
    },
    "alpaca_gpt4_sample_999.jsonl": {
        68: "explain operator", 74: "generate list", 101: "improve headline", 115: "generate review", 128: "sort list",
        135: "categorize piece", 170: "identify type", 247: "write paragraph", 279: "reword statement",
        309: "answer query", 397: "generate list", 448: "generate sentence", 450: "edit sentence",
        458: "compare doobject", 482: "generate list", 557: "compose description", 589: "suggest book", 613: "what",
        616: "find product", 686: "generate comparison", 715: "edit sentence", 733: "what", 765: "rank choice",
        776: "what", 778: "describe role", 809: "give example", 849: "specify advantage", 943: "search",
        949: "pick idea", 966: "write program",
    },
}  # fmt: skip


def main() -> None:
    """Compare the rules with the labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data / "seeds"
    wrong = []
    print("| rows | labelled | verb right | verb and object right | all rows: with a verb | with an object |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, labels in LABELS.items():
        rows = [json.loads(line)["instruction"] for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        found = [root(row) for row in rows]
        written = {i: " ".join(filter(None, found[i] or ("nothing",))) for i in labels}
        verbs = sum(written[i].split()[0] == label.split()[0] for i, label in labels.items())
        both = sum(written[i] == label for i, label in labels.items())
        with_verb = sum(pair is not None for pair in found) / len(rows)
        with_object = sum(pair is not None and pair[1] is not None for pair in found) / len(rows)
        print(f"| {name} | {len(labels)} | {verbs} | {both} | {with_verb:.0%} | {with_object:.0%} |")
        wrong += [f"{name}, row {i}: {written[i]}, not {label}" for i, label in labels.items() if written[i] != label]
    print("", *wrong, sep="\n")


if __name__ == "__main__":
    main()
