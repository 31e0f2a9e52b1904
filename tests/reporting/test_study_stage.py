"""The study stage: what it gathers from the cells' artifacts, and what it makes where there are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from montessori.artifacts import Folder, Request, is_artifact
from montessori.data.rows import write_rows
from montessori.settings import files
from tasks.reports import study
from tasks.reports.study import changes, hyperparameters
from tasks.runtime.job import Job

RUN = files.load(Path(__file__).resolve().parents[2] / "montessori/configs/tiny.yaml").model_dump(mode="json")
TREE: dict[str, Any] = {
    "name": "grid", "seeds": [0], "students": {"": {}}, "systems": {}, "ablations": {}, "published": {},
}  # fmt: skip


class Bench:
    """A store that is filled by hand, and the study of what is in it."""

    def __init__(self, folder: Path):
        self.store, self.out, self.inputs = Folder(folder / "store"), folder, {}
        self.results: list[dict[str, Any]] = []

    def put(self, stage: str, tokens: int = 0, **inputs: list[str]) -> str:
        """The address of an artifact that took these tokens."""
        address = f"{stage}/{len(list(self.store.addresses())):020x}"
        request = Request(stage=stage, version=1, settings={}, inputs=inputs, seed=0).model_dump(mode="json")
        with self.store.staging() as folder:
            if stage == "responses":
                write_rows(folder / "pairs.parquet", [_pair("a"), _pair("b")])
            if stage == "evaluation":
                write_rows(folder / "accuracy.parquet", [{"id": "a", "accuracy": 1.0}, {"id": "b", "accuracy": 0.0}])
                (folder / "metrics.json").write_text(json.dumps({"reference_loss": {"mean": 1.0}}))
            summary = {"usage": {"prompt_tokens": tokens}}
            about = {"request": request, "summary": summary, "seconds": 1.0, "versions": {}}
            about["parents"] = [parent for given in inputs.values() for parent in given if is_artifact(parent)]
            self.store.commit(address, folder, about)
        return address

    def result(self, row: str, student: str = "", judge: str = "hub:user/judge@main") -> None:
        """A row whose teacher has written with 100 tokens, and whose judge has rated with 10."""
        written = self.put("responses", 100, teacher=["hub:user/teacher@main"])
        rated = self.put("ratings", 10, judge=[judge], points=[written])
        number = len(self.results)
        self.inputs |= {
            f"{number}:student": [self.put("student", pairs=[written], ratings=[rated])],
            f"{number}:metrics": [self.put("evaluation")],
            f"{number}:pairs": [written],
        }
        self.results.append({"row": row, "group": "", "student": student, "seed": 0})

    def job(self) -> Job:
        request = Request(stage="study", version=1, settings={}, inputs=self.inputs, seed=0)
        return Job(request, self.store, self.out)

    def settings(self, missing: list[dict[str, Any]] | None = None, **tree: Any) -> study.Settings:
        return study.Settings(
            study={**TREE, **tree}, run=RUN, results=self.results, missing=missing or [], teacher_steps=[],
            student_steps=[], scored=[],
        )  # fmt: skip


def _pair(id: str) -> dict[str, Any]:
    return {"id": id, "instruction": id, "response": id, "instruction_tokens": 1, "response_tokens": 1}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_study_of_which_every_cell_failed_has_its_page(bench: Bench):
    failed = {"row": "Self-Instruct", "group": "", "student": "", "seed": 0, "error": "the teacher gave up"}
    assert study.run(bench.job(), bench.settings([failed]))["results"] == 0
    page = (bench.out / "report.html").read_text()
    assert "There are no results yet." in page and "the teacher gave up" in page


def test_a_judges_tokens_are_the_teachers_only_where_the_teacher_is_the_judge(bench: Bench):
    bench.result("Rated by another")
    bench.result("Rated by itself", judge="hub:user/teacher@main")
    found = study.gather(bench.job(), bench.settings())
    assert [result.cost.teacher_tokens for result in found.results] == [100, 110]


def test_students_are_compared_head_to_head_if_they_are_the_studys_first(bench: Bench):
    for student in ("large", "small"):
        bench.result("Self-Instruct", student)
        bench.result("Mine", student)
    duels = {name: study.gather(bench.job(), bench.settings(students={name: {}})).duels for name in ("large", "none")}
    assert [(duel.left, duel.right, duel.ties) for duel in duels["large"]] == [("Mine", "Self-Instruct", 2)]
    assert duels["none"] == []


def test_published_rows_say_which_student_they_stand_beside(bench: Bench):
    students = {"small": {}, "large": {}}
    settings = bench.settings(students=students, published={"small": "1.1B", "large": "8B"})
    found = study.gather(bench.job(), settings).published
    assert {(one.student, one.size) for one in found} == {("small", "1.1B"), ("large", "8B")}


def test_blocks_of_settings_are_told_where_a_cell_uses_them():
    systems = {"A": {"method": "llm2llm"}, "B": {"method": "self-reward"}}
    ablations = {"Update": {"C": {"update": "bootstrap"}, "As it is": {}}}
    plain, several = (
        hyperparameters({**TREE, **tree}, RUN) for tree in ({}, {"systems": systems, "ablations": ablations})
    )
    more = several.keys() - plain.keys()
    assert {name.partition(".")[0] for name in more} == {"llm2llm", "rating", "bootstrap"}
    assert "rating.openai.model" in more and not any(name.startswith("rating.vllm") for name in more)
    assert plain["dpo.learning_rate"] == several["dpo.learning_rate"] == "0.0001"


def test_what_the_file_changes_is_told_by_student_system_and_row():
    tree = {**TREE, "students": {"": {"sft": {"epochs": 2}}}, "ablations": {"Split": {"Zero": {"iterations": 2}}}}
    assert changes(tree) == {"student": {"sft.epochs": "2"}, "Split: Zero": {"iterations": "2"}}
