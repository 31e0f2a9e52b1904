"""A study's grid: what its cells share, what goes into its figures, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import drawn, study
from flows.grid import Grid
from montessori.errors import InputError
from montessori.reporting.study.data import ASIDE, TRANSFER

TINY = str(Path(__file__).resolve().parents[2] / "configs/tiny.yaml")
WIDE = {"source": "scratch", "dtype": "float32", "max_length": 96}
SHAPE = {"vocabulary": 640, "hidden": 64, "layers": 2, "heads": 4, "context": 128}


def prepared(folder: Path, **parts: Any) -> study.Prepared:
    tree = {"name": "grid", "settings": TINY, "seeds": [0], "change": {"rating": {"engine": "rule"}}, **parts}
    (folder / "study.yaml").write_text(yaml.safe_dump({**tree, "store": str(folder / "store")}, sort_keys=False))
    return study.prepare(str(folder / "study.yaml"), [], connect=False)


def rows(grid: Grid) -> list[tuple[str, str, str, int]]:
    return [(row.group, row.name, row.student, row.seed) for row in grid.rows]


def test_a_row_is_a_system_or_an_iteration_of_it_for_each_student_and_seed(tmp_path: Path) -> None:
    systems = {"LLM2LLM": {"method": "llm2llm", "iterations": 1}, "Montessori": {"iterations": 2}}
    students = {"small": {}, "large": {"student": {"scratch": {"hidden": 96}}}}
    made = prepared(tmp_path, systems=systems, students=students, seeds=[3, 5], ablations={"Split": {"Zero": {}}})
    found = rows(made.grid)
    names = ["No fine-tuning", "Self-Instruct", "LLM2LLM", "Montessori, iteration 1", "Montessori, iteration 2"]
    for student in students:
        for seed in (3, 5):
            assert [name for group, name, *of in found if (group, *of) == ("", student, seed)] == names
    assert [row for row in found if row[0] == "Split"] == [("Split", "Zero", "small", 3), ("Split", "Zero", "small", 5)]


def test_what_two_cells_ask_for_is_one_request(tmp_path: Path) -> None:
    same = prepared(tmp_path, systems={"A": {"iterations": 1}, "B": {"iterations": 1}}).grid
    one = prepared(tmp_path, systems={"A": {"iterations": 1}}).grid
    assert list(same.requests) == list(one.requests)
    beta = prepared(tmp_path, systems={"A": {"iterations": 1}, "B": {"iterations": 1, "dpo": {"beta": 0.2}}}).grid
    new = [beta.requests[address].stage for address in beta.requests if address not in one.requests]
    assert "teacher" in new and not {"warm-up", "preferences", "scratch-teacher", "seeds"} & set(new)


def test_estimators_are_compared_on_the_same_points_student_and_reference_set(tmp_path: Path) -> None:
    ablations = {
        "Estimator": {"Exact": {"influence": {"estimator": "exact"}}},
        "Reference": {"Other": {"pocket": {"reference": 6}}},
        "Precision": {"Narrow": {"influence": {"state_dtype": "bfloat16"}}},
    }
    grid = prepared(tmp_path, systems={"Montessori": {"iterations": 1}}, ablations=ablations).grid
    inputs = drawn.report(grid, {}).inputs
    own = grid.scored[0].iteration.inputs["scores"]
    assert inputs["scores-0:taylor"] == own
    assert {name for name in inputs if name.startswith("scores-0:")} == {"scores-0:taylor", "scores-0:exact"}
    assert {grid.requests[one].settings["estimator"] for one in inputs["scores-0:exact"]} == {"exact"}


def test_what_figures_and_columns_lack_is_named(tmp_path: Path) -> None:
    systems = {"Montessori": {"iterations": 1}}
    grid = prepared(tmp_path, systems=systems, teacher_steps=[0.5, 1.0], student_steps=[1.0]).grid
    half, looked = grid.teacher_steps[0], grid.student_steps[0]
    assert half.system
    made = drawn.report(grid, {half.system.metrics: "no luck", looked.scores[0]: "no light"})
    assert [(one["group"], one["row"], one["error"]) for one in made.settings["missing"]] == [
        (ASIDE, "Montessori, teacher after 50% of its update", "no luck"),
        (ASIDE, "Self-Instruct, student after 100% of its training", "no light"),
    ]
    assert [one["share"] for one in made.settings["teacher_steps"]] == [1.0]


def test_further_students_learn_from_several_systems_and_are_one_by_name(tmp_path: Path) -> None:
    other = {"transfer": {"wide": {**WIDE, "scratch": SHAPE}}}
    grid = prepared(tmp_path, systems={"A": {"iterations": 1, **other}, "B": {"iterations": 2, **other}}).grid
    assert [(name, student) for group, name, student, _ in rows(grid) if group == TRANSFER] == [
        ("No fine-tuning", "wide"), ("Self-Instruct", "wide"), ("A", "wide"), ("B", "wide")
    ]  # fmt: skip
    two = {"transfer": {"wide": {**WIDE, "scratch": {**SHAPE, "hidden": 32}}}}
    with pytest.raises(InputError, match=r"systems\.B: transfer\.wide is another student elsewhere"):
        prepared(tmp_path, systems={"A": {"iterations": 1, **other}, "B": {"iterations": 1, **two}})


def test_a_study_is_kept_whole(tmp_path: Path) -> None:
    (tmp_path / "reference.jsonl").write_text('{"instruction": "Count", "output": "1"}\n')
    (tmp_path / "mine.yaml").write_text("name: mine\nbenchmarks: {}\nreference: pocket\n")
    (tmp_path / "base.yaml").write_text(Path(TINY).read_text())
    made = prepared(tmp_path, settings="base.yaml", suite="mine.yaml", systems={"A": {"iterations": 1}})
    told = drawn.report(made.grid, {}).settings["study"]
    for name in ("mine.yaml", "base.yaml", "study.yaml"):
        (tmp_path / name).unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "study.yaml").write_text(yaml.safe_dump({**told, "store": made.study.store}))
    again = study.prepare(str(elsewhere / "study.yaml"), [], connect=False)
    assert drawn.report(again.grid, {}).address == drawn.report(made.grid, {}).address


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"systems": {"A": {"seed": 7}}}, r"systems\.A\.seed: is the study's own"),
        ({"change": {"budget": {"usd": 1}}}, r"change\.budget: is the study's own"),
        ({"ablations": {"transfer": {"A": {}}}}, "'transfer' is no title for a group"),
        ({"seeds": []}, "seeds: at least one is needed"),
        ({"systems": {"A": {"method": "llm2llm", "update": "bootstrap"}}}, "is a variant of method: montessori"),
        ({"systems": {"A": {"test": "nowhere.jsonl"}}}, r"systems\.A: test\.source = nowhere\.jsonl: no such file"),
        ({"suite": "nope"}, "suite = nope: no such suite; known: paper, quick"),
        ({"suite": "paper"}, "suite: alpaca_eval and mt_bench need a judge"),
    ],
)
def test_what_would_have_no_effect_or_cannot_be_is_refused(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepared(tmp_path, **parts)
