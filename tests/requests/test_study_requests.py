"""A study's grid: what its cells share, what goes into its figures, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.requests import study_file, study_report
from flows.requests.study import Grid
from montessori.errors import InputError
from montessori.settings.study import ASIDE, TRANSFER

TINY = str(Path(__file__).resolve().parents[2] / "montessori/configs/tiny.yaml")
WIDE = {"source": "scratch", "dtype": "float32", "max_length": 96}
SHAPE = {"vocabulary": 640, "hidden": 64, "layers": 2, "heads": 4, "context": 128}


def prepared(folder: Path, **parts: Any) -> study_file.PreparedStudy:
    tree = {"name": "grid", "settings": TINY, "seeds": [0], "change": {"rating": {"engine": "rule"}}, **parts}
    (folder / "study.yaml").write_text(yaml.safe_dump({**tree, "store": str(folder / "store")}, sort_keys=False))
    return study_file.prepare(str(folder / "study.yaml"), [], connect=False)


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
    inputs = study_report.report(grid, {}).inputs
    own = grid.scored[0].iteration.inputs["scores"]
    assert inputs["scores-0:taylor"] == own
    assert {name for name in inputs if name.startswith("scores-0:")} == {"scores-0:taylor", "scores-0:exact"}
    assert {grid.requests[one].settings["estimator"] for one in inputs["scores-0:exact"]} == {"exact"}


def test_what_figures_and_columns_lack_is_named(tmp_path: Path) -> None:
    systems = {"Montessori": {"iterations": 1}}
    grid = prepared(tmp_path, systems=systems, teacher_steps=[0.5, 1.0], student_steps=[1.0]).grid
    half, looked = grid.teacher_steps[0], grid.student_steps[0]
    assert half.system
    made = study_report.report(grid, {half.system.metrics: "no luck", looked.scores[0]: "no light"})
    assert [(one["group"], one["row"], one["error"]) for one in made.settings["missing"]] == [
        (ASIDE, "Montessori, teacher after 50% of its update", "no luck"),
        (ASIDE, "Self-Instruct, student after 100% of its training", "no light"),
    ]
    assert [one["share"] for one in made.settings["teacher_steps"]] == [1.0]


def test_the_points_of_an_estimator_are_taken_once_however_they_were_cut(tmp_path: Path) -> None:
    systems = {"Montessori": {"iterations": 1, "influence": {"shards": 2}}}
    grid = prepared(tmp_path, systems=systems, ablations={"Shards": {"One": {"influence": {"shards": 1}}}}).grid
    inputs = study_report.report(grid, {}).inputs
    assert inputs["scores-0:taylor"] == grid.scored[0].iteration.inputs["scores"]
    assert len(inputs["scores-0:taylor"]) == 2


@pytest.mark.parametrize("update", ["instructions", "responses", "bootstrap"])
def test_a_teacher_on_its_way_is_another_at_each_share(tmp_path: Path, update: str) -> None:
    systems = {"Montessori": {"iterations": 1, "update": update}}
    steps = prepared(tmp_path, systems=systems, teacher_steps=[0.5, 1.0]).grid.teacher_steps
    assert len({step.teacher for step in steps}) == 2


def test_transfer_is_from_the_first_student(tmp_path: Path) -> None:
    systems = {"A": {"iterations": 1, "transfer": {"other": {**WIDE, "scratch": SHAPE}}}}
    students = {"small": {}, "large": {"student": {"scratch": {"hidden": 96}}}}
    found = [row for row in rows(prepared(tmp_path, systems=systems, students=students).grid) if row[0] == TRANSFER]
    assert [(name, student) for _, name, student, _ in found] == [
        ("No fine-tuning", "other"), ("Self-Instruct", "other"), ("A", "other")
    ]  # fmt: skip


def test_a_study_without_the_price_of_an_endpoint_has_no_budget_in_dollars(tmp_path: Path) -> None:
    endpoint = {"engine": "openai", "openai": {"model": "my-model", "base_url": "http://127.0.0.1:9/v1"}}
    made = prepared(tmp_path, systems={"Strong": {"iterations": 0, "generation": endpoint}}, budget={"usd": 5})
    with pytest.raises(InputError, match="the price of my-model is not known"):
        study_file.check(made)


def test_an_override_of_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    prepared(tmp_path, systems={"Montessori": {"iterations": 1}})
    with pytest.raises(InputError, match=r"systems has no Montesori; did you mean Montessori\?"):
        study_file.prepare(str(tmp_path / "study.yaml"), ["systems.Montesori.iterations=2"], connect=False)


def test_settings_of_a_run_are_no_study() -> None:
    with pytest.raises(InputError, match="settings of a run"):
        study_file.prepare(TINY, [], connect=False)


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
    told = study_report.report(made.grid, {}).settings["study"]
    for name in ("mine.yaml", "base.yaml", "study.yaml"):
        (tmp_path / name).unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "study.yaml").write_text(yaml.safe_dump({**told, "store": made.study.store}))
    again = study_file.prepare(str(elsewhere / "study.yaml"), [], connect=False)
    assert study_report.report(again.grid, {}).address == study_report.report(made.grid, {}).address


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"systems": {"A": {"seed": 7}}}, r"systems\.A\.seed: is the study's own"),
        ({"change": {"budget": {"usd": 1}}}, r"change\.budget: is the study's own"),
        ({"ablations": {"transfer": {"A": {}}}}, "'transfer' is no title for a group"),
        ({"seeds": []}, "seeds: at least one is needed"),
        ({"systems": {"A": {"method": "llm2llm", "update": "bootstrap"}}}, "is a variant of method: montessori"),
        ({"systems": {"A": {"test": "nowhere.jsonl"}}}, r"systems\.A: test\.source = nowhere\.jsonl: no such file"),
        ({"suite": "nope"}, "suite = nope: no suite of that name; known: paper, quick"),
        ({"suite": "paper"}, "suite: alpaca_eval and mt_bench need a judge"),
        ({"suite": {"name": "s", "budget": {"usd": 1}}}, "suite.budget: a study has one"),
        ({"suite": {}}, "suite: name is missing"),
        ({"settings": "nope.yaml"}, "settings = nope.yaml: no such file, neither beside it nor from here"),
        ({"seeds": [0, -1]}, r"seeds\.1 = -1"),
        ({"students": {"": {}, "wide": {}}}, "students: one of several needs a name"),
        ({"students": {"wide": {"sft": {"epoch": 1}}}}, r"students\.wide: unknown setting sft\.epoch"),
        ({"change": {"dpoo": {"beta": 1}}}, r"yaml: change: unknown setting dpoo"),
        ({"ablations": {"Split": {}}}, r"ablations\.Split: at least one row"),
        ({"ablations": {"Zero": {"preferences": {"split": "zero"}}}}, r"ablations\.Zero: settings where rows"),
        (
            {"systems": {"A": {"iterations": 2}, "A, iteration 1": {"iterations": 1, "update": "bootstrap"}}},
            "two rows are called A, iteration 1",
        ),
        (
            {
                "change": {"transfer": {"other": {**WIDE, "scratch": SHAPE}}},
                "systems": {"A": {"iterations": 1}},
                "ablations": {"Size": {"Small": {"training_size": 128}}},
            },
            "two rows are called Self-Instruct; set transfer in one system alone",
        ),
        ({"systems": {"reference": {"iterations": 1}}, "suite": "quick"}, r"systems\.reference: means AlpacaEval's"),
        ({"systems": {"L": {"method": "llm2llm"}}, "teacher_steps": [0.5]}, "teacher_steps: no system measures"),
        (
            {"students": {"wide": {}}, "systems": {"A": {"transfer": {"wide": {**WIDE, "scratch": SHAPE}}}}},
            r"transfer\.wide: a student of the study is called so",
        ),
    ],
)
def test_what_would_have_no_effect_or_cannot_be_is_refused(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepared(tmp_path, **parts)
