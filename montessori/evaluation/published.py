"""The results in the paper, to show beside one's own: Table 1 of Montessori-Instruct (arXiv 2410.14208v1).

Values are as printed there: win rates and accuracies in %, MT-Bench from 1 to 10, without errors. A star means that
GPT-4o was the teacher. The other students learned from Llama3-8B-Instruct. The win rates are against the paper's own
Self-Instruct students, which therefore stand at 50.
"""

import re

from montessori.evaluation.card import Column

TITLE = "Montessori-Instruct, Table 1 (arXiv 2410.14208)"
COLUMNS = ("alpaca_eval_lc", "alpaca_eval", "mt_bench", "mmlu", "gpqa", "arc_challenge", "gsm8k", "hellaswag")
NAMES = {  # other names of these columns, reduced to letters and digits
    "alpaca_eval_lc": ("alpacaevallcwr", "alpacaevallcwinrate", "lcwr"),
    "alpaca_eval": ("alpacaevalwr", "alpacaevalwinrate", "wr"),
    "gpqa": ("gpqamain", "gpqamainzeroshot"),
    "arc_challenge": ("arcc",),
}

Values = tuple[float, float, float, float, float, float, float, float]  # in the order of COLUMNS

ROWS: dict[str, dict[str, Values]] = {
    "8B": {
        "No fine-tuning": (2.09, 3.39, 5.597, 62.15, 24.33, 57.85, 51.25, 81.96),
        "Self-Instruct": (50, 50, 6.490, 62.42, 31.92, 59.98, 58.76, 80.93),
        "Self-Instruct*": (54.95, 56.39, 5.918, 63.41, 30.13, 60.58, 50.42, 81.42),
        "Self-Reward*, iteration 1": (51.87, 55.38, 6.713, 62.46, 28.19, 59.84, 53.60, 81.04),
        "Self-Reward*, iteration 2": (53.49, 57.32, 6.798, 62.02, 29.08, 60.64, 56.37, 81.13),
        "LLM2LLM, iteration 1": (51.49, 53.12, 6.531, 62.18, 29.12, 57.49, 55.28, 80.49),
        "LLM2LLM, iteration 2": (52.63, 55.02, 6.519, 62.46, 30.04, 59.65, 57.75, 80.57),
        "Montessori-Instruct, iteration 1": (54.92, 58.59, 6.903, 62.93, 29.91, 62.97, 58.76, 81.22),
        "Montessori-Instruct, iteration 2": (56.82, 60.23, 7.092, 63.44, 31.19, 59.98, 60.05, 81.98),
    },
    "1.1B": {
        "No fine-tuning": (17.89, 17.56, 1.020, 26.16, 23.88, 37.12, 1.97, 62.61),
        "Self-Instruct": (50, 50, 2.154, 26.21, 24.78, 37.97, 1.82, 62.47),
        "Self-Instruct*": (54.02, 55.02, 1.928, 26.64, 24.33, 38.82, 2.20, 63.17),
        "Self-Reward*, iteration 1": (47.62, 48.34, 1.804, 26.34, 23.92, 37.64, 1.76, 62.27),
        "Self-Reward*, iteration 2": (46.48, 46.95, 1.717, 26.09, 24.62, 38.03, 1.76, 62.79),
        "LLM2LLM, iteration 1": (52.03, 52.75, 2.243, 25.87, 24.51, 36.86, 2.24, 62.15),
        "LLM2LLM, iteration 2": (51.64, 53.52, 2.192, 25.62, 24.84, 36.74, 2.31, 62.08),
        "Montessori-Instruct, iteration 1": (53.25, 51.77, 2.485, 26.23, 23.92, 37.97, 2.35, 62.59),
        "Montessori-Instruct, iteration 2": (54.52, 54.97, 2.504, 26.35, 24.88, 38.11, 2.91, 63.55),
    },
}


def column_of(column: Column) -> str | None:
    """Return the name in COLUMNS of a column, by its key or its name, or None."""
    known = {_fold(name): key for key in COLUMNS for name in (key, *NAMES.get(key, ()))}
    return known.get(_fold(column.key)) or known.get(_fold(column.name))


def values(size: str | None, column: Column) -> dict[str, str]:
    """Return the paper's values of a column for students of this size, by method. Empty without such a column."""
    key = column_of(column)
    if size not in ROWS or key is None:
        return {}
    digits = 3 if key == "mt_bench" else 2
    return {method: f"{row[COLUMNS.index(key)]:.{digits}f}" for method, row in ROWS[size].items()}


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
