"""The split of a teacher's points into a warm-up set and a probing set."""

from pathlib import Path

import pytest
from making import Making

from montessori.data.rows import Row, read_rows

ROWS = [
    {"id": f"{prompt}-{sample}", "prompt_id": f"{prompt}", "instruction": f"Do {prompt}.", "response": f"{sample}"}
    for prompt in range(12)
    for sample in range(4)
]


@pytest.fixture
def making(tmp_path: Path) -> Making:
    making = Making(tmp_path)
    making.put("responses/a", pairs=ROWS[0::2])
    making.put("responses/b", pairs=ROWS[1::2])
    return making


def split(making: Making, seed: int, shards: tuple[str, ...] = ("a", "b")) -> tuple[list[Row], list[Row]]:
    pairs = [f"responses/{shard}" for shard in shards]
    folder = making.make("split", {"warm_up": 16, "probing": 28}, seed, pairs=pairs)
    return read_rows(folder / "warm-up.parquet"), read_rows(folder / "probing.parquet")


def test_no_point_is_in_both_sets_and_all_shards_are_read(making: Making) -> None:
    warm_up, probing = split(making, seed=0)
    ids = [row["id"] for row in (*warm_up, *probing)]
    assert (len(warm_up), len(probing)) == (16, 28)
    assert len(set(ids)) == len(ids) == 44


def test_a_prompt_is_on_one_side_but_for_the_one_at_the_border(making: Making) -> None:
    warm_up, probing = split(making, seed=0)
    assert len({row["prompt_id"] for row in warm_up} & {row["prompt_id"] for row in probing}) <= 1


def test_the_seed_decides_and_the_order_of_the_shards_does_not(making: Making) -> None:
    assert split(making, seed=0) == split(making, seed=0, shards=("b", "a"))
    first, other = ({row["prompt_id"] for row in split(making, seed)[0]} for seed in (0, 1))
    assert first != other
