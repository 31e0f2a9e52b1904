"""LLM2LLM's training set: all new points, then old ones, first those that the student got wrong."""

from pathlib import Path

from making import Making

from montessori.data.rows import read_rows


def rows(prefix: str, count: int) -> list[dict[str, str]]:
    return [{"id": f"{prefix}{n}", "instruction": f"{prefix} {n}", "response": "yes"} for n in range(count)]


def test_new_points_come_first_then_mistakes_then_others(tmp_path: Path) -> None:
    making = Making(tmp_path)
    making.put("responses/old", pairs=rows("old", 10))
    making.put("responses/new", pairs=rows("fresh", 4))
    making.put("mistakes/m", rows=[{**row, "wrong": row["id"] in ("old3", "old7")} for row in rows("old", 10)])
    given = {"new": "responses/new", "old": "responses/old", "mistakes": "mistakes/m"}
    merged = [
        [row["id"] for row in read_rows(making.make("union", {"size": 9}, seed, **given) / "pairs.parquet")]
        for seed in (0, 1)
    ]
    for ids in merged:
        assert ids[5:] == ["new-0", "new-1", "new-2", "new-3"]
        assert set(ids[:2]) == {"old3", "old7"}
        assert len(set(ids)) == 9
    assert merged[0] != merged[1]  # by lot
