"""`montessori store` as a user meets it."""

import json
import shutil
from pathlib import Path

import pytest
from shelf import orphan, put

from flows.commands import cli
from montessori.artifacts import Folder
from montessori.artifacts.store import MANIFEST
from montessori.refresh import champions


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """Two runs that share seeds, and a student of neither."""
    store = Folder(tmp_path / "store")
    put(store, "seeds/5e", age_h=60)
    put(store, "student/a1", "seeds/5e", age_h=50)
    put(store, "student/b2", "seeds/5e", age_h=49)
    put(store, "student/c3", "seeds/5e", age_h=48)
    put(store, "runs/old-11111111", "student/a1", "seeds/5e", age_h=24 * 40)
    put(store, "runs/new-22222222", "student/b2", "seeds/5e", age_h=47)
    return store


@pytest.fixture
def montessori(store, capsys):
    """`montessori('ls')` → exit code, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(["store", *words, "--store", str(store.root)])
        return code, *capsys.readouterr()

    return call


def test_ls_names_runs_first_then_the_newest(montessori):
    code, out, _ = montessori("ls")
    assert code == 0
    addresses = [line.split()[0] for line in out.splitlines()]
    assert addresses == [
        "runs/new-22222222", "runs/old-11111111", "student/c3", "student/b2", "student/a1", "seeds/5e",
    ]  # fmt: skip
    (seeds,) = (line for line in out.splitlines() if line.startswith("seeds"))
    assert "80 B" in seeds and "2 d" in seeds and "@" in seeds


def test_ls_of_a_stage_names_only_that(montessori):
    assert [line.split()[0] for line in montessori("ls", "runs")[1].splitlines()] == [
        "runs/new-22222222", "runs/old-11111111",
    ]  # fmt: skip
    assert "no artifact of task teacher" in montessori("ls", "teacher")[1]


def test_ls_speaks_json(montessori):
    found = json.loads(montessori("ls", "student", "--json")[1])
    assert [entry["address"] for entry in found] == ["student/c3", "student/b2", "student/a1"]
    assert found[0]["bytes"] == 100 and found[0]["label"] == "student" and found[0]["made"].startswith("20")


@pytest.mark.parametrize("stage", ["evaluations", "runs", "student", "studies"])
def test_ls_of_a_stage_that_another_store_may_have_is_empty(montessori, stage, store):
    shutil.rmtree(store.root / "runs")
    assert montessori("ls", stage)[0] == 0


def test_ls_of_no_stage_at_all_says_which_was_meant(montessori):
    code, out, err = montessori("ls", "students")
    assert (code, out) == (2, "") and "TASK = students: no such task; did you mean student?" in err
    assert "did you mean refreshes?" in montessori("ls", "refresh")[2]
    assert "known here: answers, benchmark," in montessori("ls", "xyz")[2]


@pytest.mark.parametrize(
    "words",
    [
        ("store", "ls"),
        ("store", "show", "student/a1"),
        ("store", "verify"),
        ("store", "verify", "--delete-damaged"),
        ("store", "gc"),
        ("store", "gc", "--delete"),
        ("status",),
        ("champion", "history", "--name", "tiny"),
        ("champion", "promote", "teacher/a", "--name", "tiny"),
    ],
)
def test_a_store_that_is_not_there_is_wrong_input_and_is_not_made(tmp_path, capsys, words):
    assert cli.main([*words, "--store", str(tmp_path / "none")]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and f"--store = {tmp_path / 'none'}: no such folder" in err
    assert not (tmp_path / "none").exists()


def test_an_empty_store_is_not_called_undamaged(tmp_path, capsys):
    assert cli.main(["store", "ls", "--store", str(tmp_path)]) == 0
    assert cli.main(["store", "verify", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path} has no artifact\n" * 2


def test_show_tells_what_an_artifact_is_made_of_and_from(montessori):
    code, out, _ = montessori("show", "student/a1")
    assert code == 0
    for part in ("student/a1", "100 B  file", "x: seeds/5e", "version 1", "@"):
        assert part in out


def test_the_beginning_of_an_address_or_the_name_of_a_run_will_do(montessori):
    assert "artifact  runs/new-22222222" in montessori("show", "new")[1]
    assert "artifact  student/b2" in montessori("show", "student/b")[1]


def test_an_unknown_address_is_wrong_input_with_the_nearest(montessori):
    code, out, err = montessori("show", "studnet/b2")
    assert (code, out) == (2, "")
    assert "studnet/b2: not in the store; the nearest: student/" in err
    code, _, err = montessori("show", "student/")
    assert code == 2 and "begins 3 addresses" in err


def damage_some(store: Folder) -> None:
    (store.root / "student/a1/file").write_text("x" * 100)
    (store.root / "student/b2/file").unlink()
    (store.root / "student/c3" / MANIFEST).write_text("{half")
    shutil.copytree(store.root / "seeds/5e", store.root / "seeds/copy")


def test_verify_finds_a_whole_store_whole(montessori):
    assert montessori("verify") == (0, "6 artifacts, 720 B: none damaged\n", "")


def test_verify_names_everything_that_is_damaged(store, montessori):
    damage_some(store)
    code, out, _ = montessori("verify")
    assert code == 1
    assert "damaged  student/a1  file differs from what was committed" in out
    assert "damaged  student/b2  file is missing" in out
    assert "damaged  student/c3  " in out and "not JSON" in out
    assert "damaged  seeds/copy  its manifest is that of seeds/5e" in out
    assert out.endswith(": 4 damaged\n")


def test_verify_of_one_reads_only_that(store, montessori):
    damage_some(store)
    assert montessori("verify", "seeds/5e", "runs/new-22222222")[0] == 0
    assert montessori("verify", "student/a1")[0] == 1
    assert montessori("verify", "student/zz")[0] == 2


def test_damaged_artifacts_are_removed_on_request_and_the_rest_stays(store, montessori):
    damage_some(store)
    code, out, _ = montessori("verify", "--delete-damaged")
    assert code == 1 and out.count("removed  ") == 4
    assert montessori("verify")[0] == 0
    assert list(store.addresses()) == ["runs/new-22222222", "runs/old-11111111", "seeds/5e"]


def test_gc_shows_and_removes_nothing_by_itself(store, montessori):
    orphan(store)
    before = list(store.addresses())
    code, out, _ = montessori("gc")
    assert code == 0
    (line,) = (line.split() for line in out.splitlines() if line.startswith("student"))
    assert line == ["student", "1", "100", "B", "2", "200", "B"]
    assert "left by writers that were killed: 100.0 kB" in out and "Nothing was removed" in out
    assert list(store.addresses()) == before


def test_gc_keeps_all_runs_unless_told_otherwise(store, montessori):
    assert montessori("gc", "--delete")[0] == 0
    assert set(store.addresses()) == {
        "runs/new-22222222", "runs/old-11111111", "seeds/5e", "student/a1", "student/b2",
    }  # fmt: skip


def test_gc_keeps_runs_that_are_young_enough(store, montessori):
    assert montessori("gc", "--keep-runs", "30d", "--delete")[0] == 0
    assert set(store.addresses()) == {"runs/new-22222222", "seeds/5e", "student/b2"}


def test_gc_drops_a_run_by_its_whole_name_only(store, montessori):
    code, _, err = montessori("gc", "--drop", "new", "--delete")
    assert code == 2 and "not the whole name of a run; do you mean runs/new-22222222?" in err
    assert montessori("gc", "--drop", "new-22222222", "--delete")[0] == 0
    assert set(store.addresses()) == {"runs/old-11111111", "seeds/5e", "student/a1"}


def test_gc_keeps_what_is_younger_than_the_grace(store, montessori):
    assert montessori("gc", "--grace", "3d", "--delete")[0] == 0
    assert len(list(store.addresses())) == 6


def test_gc_keeps_champions_without_their_runs(store, montessori):
    put(store, "teacher/t1", "seeds/5e", age_h=50)
    champions.promote(store, "tiny", "teacher/t1")
    assert montessori("gc", "--keep-runs", "0", "--delete")[0] == 0
    assert set(store.addresses()) == {"teacher/t1", "seeds/5e"}


@pytest.mark.parametrize("words", [("gc", "--grace", "3"), ("gc", "--keep-runs", "month"), ("sweep",)])
def test_wrong_words_are_wrong_input(montessori, words):
    with pytest.raises(SystemExit) as error:
        montessori(*words)
    assert error.value.code == 2
