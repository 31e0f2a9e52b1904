"""Compare our win rates and length control on published verdicts with the leaderboard's.

    .venv/bin/python benchmarks/win_rates.py DATA

DATA has `leaderboard.csv` and a folder for each model with `annotations.json.gz`, as in the AlpacaEval repository. Our
length control has no instruction difficulties, and the published one has. The table shows the distance between the two.
"""

import argparse
import csv
import gzip
import json
from pathlib import Path

from montessori.data.rows import Row
from montessori.evaluation import alpaca


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data: Path = parser.parse_args().data
    with (data / "leaderboard.csv").open(encoding="utf-8") as file:
        published = {row[""]: row for row in csv.DictReader(file)}
    print(f"{'model':32} {'win rate':>9} {'published':>10} {'lengths alone':>14} {'error':>6} {'published LC':>13}")
    for path in sorted(data.glob("*/annotations.json.gz")):
        name = path.parent.name
        found = alpaca.win_rates(
            _verdicts(path),
            model=name,
            baseline="gpt4_1106_preview",
            judge="weighted_alpaca_eval_gpt4_turbo",
            difficulties="none",
        )
        row = published[name]
        print(
            f"{name:32} {found.win_rate:9.4f} {float(row['win_rate']):10.4f} {found.length_controlled or 0:14.2f} "
            f"{found.lc_sampling_error or 0:6.2f} {float(row['length_controlled_winrate']):13.2f}"
        )


def _verdicts(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        annotations = json.load(file)
    return [
        {
            "id": str(index),
            "index": index,
            "question": one["instruction"],
            "left": one["output_1"],
            "right": one["output_2"],
            "swapped": False,
            "preference": None if one["preference"] is None else one["preference"] - 1,
        }
        for index, one in enumerate(annotations)
    ]


if __name__ == "__main__":
    main()
