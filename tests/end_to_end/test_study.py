"""`montessori study` as a user meets it: a grid in the micro world, one cell of which cannot be made."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import CONFIG, Montessori

pytestmark = pytest.mark.xdist_group("study")
STUDY: dict[str, Any] = {
    "name": "grid",
    "settings": str(CONFIG),
    "change": {"iterations": 1, "rating": {"engine": "rule"}},
    "seeds": [0],
    "systems": {
        "LLM2LLM": {"method": "llm2llm"},
        "Wordless": {"instructions": {"min_characters": 9, "max_characters": 9}},  # nothing that it writes is kept
        "Montessori-Instruct": {},
    },
    "ablations": {"Signal": {"Judge": {"preferences": {"signal": "rating"}}}},
    "teacher_steps": [0.5, 1.0],
    "student_steps": [1.0],
    "compute": {"retry_delay_s": 0.1},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path


def lines(output: str, state: str) -> list[str]:
    """The titles of the stages that the screen says are in a state."""
    return re.findall(rf"^{state} +(?:\d+\.\d s)? +(.*?)  \S+/\S+$", output, re.M)


@pytest.fixture(scope="module")
def drawn(here: Montessori, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store with the study in it, and what the command said."""
    folder = tmp_path_factory.mktemp("study")
    store = Path(shutil.copytree(finished, folder / "store"))
    return store, here("study", written(folder), "--store", store)


def the_study(store: Path) -> Path:
    (found,) = (store / "studies").iterdir()
    return found


def test_a_cell_that_fails_stops_no_other_and_is_named(drawn) -> None:
    store, done = drawn
    assert done.returncode == 1
    assert "Wordless, seed 0" in done.stderr and "What is done stays done" in done.stderr
    summary = json.loads((the_study(store) / "summary.json").read_text())
    rows = [(row["group"], row["row"]) for row in summary["rows"]]
    assert rows == [
        ("", "No fine-tuning"), ("", "Self-Instruct"), ("", "LLM2LLM"), ("", "Montessori-Instruct"), ("Signal", "Judge")
    ]  # fmt: skip
    (missing,) = summary["missing"]
    assert (missing["row"], missing["seed"]) == ("Wordless", 0) and "instructions" in missing["error"]
    table = list(csv.DictReader((the_study(store) / "table1.csv").read_text().splitlines()))
    assert [row["system"] for row in table][:2] == ["No fine-tuning", "Self-Instruct"]


def test_what_the_cells_share_with_a_run_is_not_made_again(drawn) -> None:
    _, done = drawn
    cached, made = lines(done.stdout, "cached"), lines(done.stdout, "done")
    assert any("Self-Instruct: student" in title for title in cached)
    assert any("Montessori iteration 1: DPO of the teacher" in title for title in cached)
    assert any("LLM2LLM iteration 1: mistakes" in title for title in made)
    assert not any("teacher from scratch" in title for title in made)


def test_numbers_are_those_of_the_run(drawn, finished: Path) -> None:
    store, _ = drawn
    (run,) = (finished / "runs").iterdir()
    systems = json.loads((run / "summary.json").read_text())["systems"]
    rows = {row["row"]: row for row in json.loads((the_study(store) / "summary.json").read_text())["rows"]}
    for name, system in (("Self-Instruct", "Self-Instruct"), ("Montessori-Instruct", "Montessori iteration 1")):
        for metric in ("reference_loss", "held_out_loss", "accuracy"):
            assert rows[name][metric] == systems[system][metric]["mean"]
    assert rows["Montessori-Instruct"]["teacher_tokens"] > rows["Self-Instruct"]["teacher_tokens"] > 0
    assert rows["Self-Instruct"]["scoring_s"] == 0 < rows["Montessori-Instruct"]["scoring_s"]


def test_the_page_has_the_figures_that_there_is_data_for(drawn) -> None:
    store, _ = drawn
    figures = {path.stem for path in (the_study(store) / "figures").glob("*.svg")}
    assert {"teacher-steps", "teacher-influence", "student-positive", "duels", "cost", "token-lengths"} <= figures
    page = (the_study(store) / "report.html").read_text()
    assert "Wordless" in page and not re.search(r'(?:src|href)="https?:', page)


def test_a_clean_up_keeps_what_a_study_is_made_of(drawn, here: Montessori, tmp_path: Path) -> None:
    store = Path(shutil.copytree(drawn[0], tmp_path / "store"))
    swept = here("store", "gc", "--store", store, "--grace", "0h", "--delete")
    assert swept.returncode == 0, swept.stderr
    assert (the_study(store) / "report.html").is_file()
    for name, made in json.loads((the_study(store) / "manifest.json").read_text())["request"]["inputs"].items():
        assert all((store / address / "manifest.json").is_file() for address in made), name


def test_status_shows_the_grid(drawn, here: Montessori) -> None:
    store, _ = drawn
    shown = here("status", "studies/grid", "--store", store)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^LLM2LLM, seed 0 +done ", shown.stdout, re.M), shown.stdout
    assert re.search(r"^Wordless, seed 0 +failed ", shown.stdout, re.M), shown.stdout


def test_a_system_added_later_is_all_that_is_made(drawn, here: Montessori, tmp_path: Path) -> None:
    store = Path(shutil.copytree(drawn[0], tmp_path / "store"))
    added = {name: change for name, change in STUDY["systems"].items() if name != "Wordless"}
    added["Bootstrap"] = {"update": "bootstrap", "bootstrap": {"batch_size": 8, "per_device_batch_size": 8}}
    study = written(tmp_path, systems=added)
    done = here("study", study, "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    made = [title for title in lines(done.stdout, "done") if title != "study"]
    assert made and all(title.startswith("Bootstrap, seed 0 · ") for title in made)
    last = max((store / "studies").glob("*/study.yaml"), key=lambda path: path.stat().st_mtime)
    again = here("study", last, "--store", store)
    assert again.returncode == 0 and not lines(again.stdout, "done"), again.stdout + again.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sytems": {}}, "unknown setting sytems; did you mean systems?"),
        ({"settings": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        (
            {"systems": {"Mine": {"dpo": {"betta": 1}}}},
            "systems.Mine: unknown setting dpo.betta; did you mean dpo.beta?",
        ),
        ({"ablations": {"A": {"Self-Instruct": {}}}}, "the row Self-Instruct: every study has it"),
        ({"seeds": [1, 1]}, "seeds: one comes twice"),
        ({"teacher_steps": [2.0]}, "teacher_steps: shares of a training lie between 0 and 1"),
        ({"judge": "openai:gpt-4o"}, "judge: there is no suite"),
    ],
)
def test_a_wrong_study_is_said_in_a_sentence(here: Montessori, tmp_path: Path, changes, words) -> None:
    wrong = here("study", written(tmp_path, **changes), "--store", tmp_path / "store")
    assert wrong.returncode == 2 and words in wrong.stderr, wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1 and not (tmp_path / "store").exists()


def test_a_dry_run_and_an_estimate_start_nothing(here: Montessori, tmp_path: Path) -> None:
    study = written(tmp_path)
    shown = here("study", study, "--store", tmp_path / "store", "--dry-run")
    assert shown.returncode == 0 and "Nothing was started" in shown.stdout
    assert re.search(r"Self-Instruct, seed 0 +│ +\d+ │", shown.stdout), shown.stdout
    priced = here("estimate", study, "--store", tmp_path / "store")
    assert priced.returncode == 0 and re.search(r"^total ", priced.stdout, re.M), priced.stdout + priced.stderr
    assert not (tmp_path / "store").exists()
