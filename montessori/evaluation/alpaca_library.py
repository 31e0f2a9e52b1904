"""Load the alpaca_eval library's win rates, and the file of difficulties for its length control.

The file df_gamed.csv holds the difficulty of each of AlpacaEval's 805 instructions, and the verdicts on GPT-4-turbo
when asked to be brief or verbose. The library downloads it from the hub. Here it may also be a local file, or missing.
"""

import functools
import importlib
import importlib.metadata
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv

from montessori.data.rows import Row
from montessori.errors import InputError

FULL, LENGTHS = "length_controlled_v1", "length_controlled_minimal"  # the library's names of its regressions
BASELINE, JUDGE = "gpt4_1106_preview", "weighted_alpaca_eval_gpt4_turbo"  # those of the published leaderboard
DIFFICULTY = "instruction_difficulty"
COLUMNS = {  # of the file of difficulties
    "model": "text",
    "index": "whole numbers",
    "preference": "numbers",
    "std_delta_len": "numbers",
    DIFFICULTY: "numbers",
    "not_gamed_baseline": "True and False",
}

logger = logging.getLogger(__name__)


@functools.cache
def library() -> Any:
    """Return the library's module of win rates, imported without side effects. Raises InputError if missing."""
    level = logging.getLogger().level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the import uses deprecated parts of setuptools
            return importlib.import_module("alpaca_eval.metrics.glm_winrate")
    except ModuleNotFoundError as error:
        raise InputError(
            f"alpaca_eval: {error.name}, which win rates need, is not installed; pip install 'montessori[evaluation]'"
        ) from None
    finally:
        logging.getLogger().setLevel(level)  # the import sets it to INFO


@contextmanager
def use_file(file: Path) -> Iterator[None]:
    """Let the library find `file` inside the block, in place of its download."""
    module = library()
    download = module.hf_hub_download
    module.hf_hub_download = lambda **_: str(file)
    try:
        yield
    finally:
        module.hf_hub_download = download


def check(difficulties: str) -> pa.Table:
    """Return the table in a file of difficulties. Raises InputError unless it has the library's columns."""
    where = f"alpaca_eval.difficulties = {difficulties}"
    try:
        table = csv.read_csv(Path(difficulties).expanduser())
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{where}: not a CSV file ({error})") from None
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise InputError(f"{where}: lacks the columns {', '.join(missing)}; expected is a file like df_gamed.csv")
    for name, expected in COLUMNS.items():
        kind = table[name].type
        fits = {
            "text": True,  # the library drops this column
            "whole numbers": pa.types.is_integer(kind),
            "numbers": pa.types.is_integer(kind) or pa.types.is_floating(kind),
            "True and False": pa.types.is_boolean(kind),
        }
        if not fits[expected] or (table[name].null_count and name != "preference"):
            raise InputError(f"{where}: the column {name} holds something else than {expected}")
    return table


def difficulties(where: str, rows: Sequence[Row], folder: Path) -> tuple[Path, str, str]:
    """Return the file for the library, the regression that reads it, and a sentence on that regression."""
    version = f"alpaca_eval {importlib.metadata.version('alpaca-eval')}"
    file = None if where == "none" else _published() if where == "hub" else Path(where).expanduser()
    if file is None:
        used = (
            f"{LENGTHS} of {version}, which knows lengths alone: it is not the leaderboard's, and can be far from it "
            "where answers are much shorter or longer than the baseline's"
        )
        if where == "hub":
            used = f"the hub could not be reached for instruction difficulties, so {used}"
        return _without(rows, folder), LENGTHS, used
    indices = check(str(file))["index"].to_pylist()
    for index in (row["index"] for row in rows):  # the library uses the number of a row as its index
        if index >= len(indices) or (where != "hub" and indices[index] != index):
            raise InputError(
                f"alpaca_eval.difficulties = {where}: row {index + 1} is not that of the instruction with index {index}"
            )
    used = f"{FULL} of {version}, with instruction difficulties and gamed baselines from "
    used += "the hub" if where == "hub" else where
    return file, FULL, used + _foreign_difficulties(rows[0]["generator_1"], rows[0]["annotator"])


def _foreign_difficulties(baseline: str, judge: str) -> str:
    """Return a warning when the published difficulties belong to another baseline or judge, or an empty string."""
    if baseline != BASELINE:
        return (
            f"; the published ones are of answers compared with GPT-4-turbo's ({BASELINE}), and the baseline here is "
            f"{baseline}: how hard an instruction is, and how much length counts, are drawn to what they are against "
            "GPT-4-turbo, so the number ranks models under this baseline and is not the leaderboard's"
        )
    if judge != JUDGE:
        return f"; the published ones are by GPT-4-turbo as the judge ({JUDGE}), and the judge here is {judge}"
    return ""


@functools.cache  # an unreachable hub takes half a minute to fail
def _published() -> Path | None:
    """Return the file from the hub, downloaded as the library does, or None when the hub does not give it."""
    constants = library().constants
    try:
        return Path(
            library().hf_hub_download(
                repo_id="tatsu-lab/alpaca_eval",
                filename="df_gamed.csv",
                repo_type="dataset",
                token=constants.DATASETS_TOKEN,
                force_download=constants.DATASETS_FORCE_DOWNLOAD,
                cache_dir=constants.DEFAULT_CACHE_DIR,
            )
        )
    except OSError as error:  # the base of all of the hub's errors
        logger.warning("the hub does not give AlpacaEval's instruction difficulties: %s", error)
        return None


def _without(rows: Sequence[Row], folder: Path) -> Path:
    """Write a file without difficulties, since the library reads one even where its regression ignores it."""
    count = 1 + max(row["index"] for row in rows)
    zeros = dict.fromkeys(("preference", "std_delta_len", DIFFICULTY), [0.0] * count)
    same = {"model": ["none"] * count, "index": list(range(count)), "not_gamed_baseline": [False] * count}
    csv.write_csv(pa.table({**same, **zeros}), folder / "without.csv")
    return folder / "without.csv"
