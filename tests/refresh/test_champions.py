"""The champions' history: it only grows, of two writers one has a number, and a promotion can be taken back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands import cli
from montessori.artifacts import Folder, Store
from montessori.errors import ArtifactError, InputError, StageError
from montessori.evaluation.paired import PairedTest
from montessori.refresh import champions

FOUND = PairedTest(difference=0.4, standard_error=0.05, p_value=1e-9, n=64, seeds=1)
BASE = "hub:meta-llama/Meta-Llama-3-8B-Instruct"
RACER = """
import sys
from montessori.refresh import champions
from montessori.artifacts import Folder

store = Folder(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    champions.promote(store, "race", f"teacher/{sys.argv[2]}-{number}")
"""


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """A store with teachers a, b, c, and a student."""
    store = Folder(tmp_path / "store")
    for address in ("teacher/a", "teacher/b", "teacher/c", "student/a"):
        put(store, address)
    return store


def put(store: Store, address: str, **about: object) -> None:
    with store.staging() as folder:
        (folder / "file").write_text(address)
        store.commit(address, folder, about)


def champion(store: Store, name: str = "tiny") -> str:
    return champions.history(store, name)[-1].teacher


def test_the_last_entry_is_the_champion_and_all_are_kept(store):
    champions.promote_tested(store, "tiny", "teacher/a", over=BASE, after=0, refresh="refreshes/one", test=FOUND)
    champions.promote(store, "tiny", "teacher/b")
    first, second = champions.history(store, "tiny")
    assert (first.teacher, first.how, first.replaces, first.made_by, first.test) == (
        "teacher/a", "test", BASE, "refreshes/one", FOUND,
    )  # fmt: skip
    assert (second.teacher, second.how, second.replaces, second.test) == ("teacher/b", "hand", "teacher/a", None)
    assert set(second.who) == {"user", "host", "time"}
    assert store.names(".champions/") == [".champions/tiny/000001.json", ".champions/tiny/000002.json"]


def test_each_name_has_a_champion_of_its_own(store):
    champions.promote(store, "tiny", "teacher/a")
    champions.promote(store, "tiny2", "teacher/b")
    assert champions.names(store) == ["tiny", "tiny2"]
    assert (champion(store), champion(store, "tiny2")) == ("teacher/a", "teacher/b")


def test_rollbacks_take_promotions_back_one_by_one_down_to_the_base_teacher(store):
    champions.promote_tested(store, "tiny", "teacher/a", over=BASE, after=0, refresh="refreshes/one", test=FOUND)
    champions.promote(store, "tiny", "teacher/b")
    back = champions.rollback(store, "tiny")
    assert (back.teacher, back.replaces, back.made_by) == ("teacher/a", "teacher/b", "refreshes/one")
    champions.promote(store, "tiny", "teacher/c")
    assert champions.rollback(store, "tiny").teacher == "teacher/a"
    assert champions.rollback(store, "tiny").teacher == BASE
    with pytest.raises(InputError, match="no promotion to take back"):
        champions.rollback(store, "tiny")
    assert len(champions.history(store, "tiny")) == 6


def test_a_first_champion_by_hand_has_none_before_it(store):
    champions.promote(store, "tiny", "teacher/a")
    with pytest.raises(InputError, match="nothing to go back to"):
        champions.rollback(store, "tiny")


def test_a_refresh_promotes_once_however_often_it_says_so(store):
    for _ in range(2):
        entry = champions.promote_tested(
            store, "tiny", "teacher/a", over=BASE, after=0, refresh="refreshes/one", test=FOUND
        )
        assert entry.number == 1
    champions.rollback(store, "tiny")
    champions.promote_tested(store, "tiny", "teacher/a", over=BASE, after=0, refresh="refreshes/one", test=FOUND)
    assert champion(store) == BASE  # what was taken back stays so


def test_a_challenger_is_not_promoted_over_a_champion_that_it_was_not_compared_with(store):
    champions.promote(store, "tiny", "teacher/a")
    champions.promote(store, "tiny", "teacher/b")  # while teacher/c was compared with teacher/a
    with pytest.raises(StageError, match=r"teacher/b has become champion since .* teacher/c was not promoted"):
        champions.promote_tested(
            store, "tiny", "teacher/c", over="teacher/a", after=1, refresh="refreshes/one", test=FOUND
        )
    assert champion(store) == "teacher/b"


class Beaten(Folder):
    """A store in which somebody else makes teacher/b the champion right before one's own first entry."""

    beaten = False

    def create(self, name: str, content: bytes) -> bool:
        if not self.beaten:
            self.beaten = True
            champions.promote(Folder(self.root), "tiny", "teacher/b")
        return super().create(name, content)


def test_of_two_promotions_at_the_same_moment_the_second_looks_again(store):
    champions.promote(store, "tiny", "teacher/a")
    entry = champions.promote(Beaten(store.root), "tiny", "teacher/c")
    assert (entry.number, entry.teacher, entry.replaces) == (3, "teacher/c", "teacher/b")


def test_a_rollback_that_somebody_came_before_takes_nothing_back(store):
    champions.promote_tested(store, "tiny", "teacher/a", over=BASE, after=0, refresh="refreshes/one", test=FOUND)
    with pytest.raises(StageError, match="somebody else has just changed it"):
        champions.rollback(Beaten(store.root), "tiny")
    assert [entry.teacher for entry in champions.history(store, "tiny")] == ["teacher/a", "teacher/b"]


def test_a_refresh_that_somebody_came_before_promotes_nothing(store):
    with pytest.raises(StageError, match=r"teacher/b has become champion since"):
        champions.promote_tested(
            Beaten(store.root), "tiny", "teacher/a", over=BASE, after=0, refresh="refreshes/one", test=FOUND
        )
    assert [entry.teacher for entry in champions.history(store, "tiny")] == ["teacher/b"]


def test_writers_that_race_lose_no_entry_and_leave_no_gap(store):
    count, each = 3, 12
    for me in range(count):
        for number in range(each):
            put(store, f"teacher/{me}-{number}")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(store.root), str(me), str(each)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for me in range(count)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert [(racer.communicate(), racer.returncode)[1] for racer in racers] == [0] * count
    entries = champions.history(store, "race")
    assert [entry.number for entry in entries] == list(range(1, count * each + 1))
    assert {entry.teacher for entry in entries} == {f"teacher/{me}-{n}" for me in range(count) for n in range(each)}
    assert [entry.replaces for entry in entries] == [None, *(entry.teacher for entry in entries[:-1])]


def test_a_spoilt_entry_is_named(store):
    champions.promote(store, "tiny", "teacher/a")
    store.write(".champions/tiny/000001.json", b"{}")
    with pytest.raises(ArtifactError, match=r"\.champions/tiny/000001\.json is no entry"):
        champions.history(store, "tiny")


def command(store: Folder, *arguments: str) -> int:
    return cli.main(["champion", *arguments, "--store", str(store.root)])


def test_the_command_promotes_shows_and_takes_back(store, capsys):
    put(store, "runs/tiny-1a2b3c4d", request={"inputs": {"1:teacher": ["teacher/b"]}})
    assert command(store, "promote", "teacher/a", "--name", "tiny") == 0
    assert command(store, "promote", "teacher/b") == 0  # the store's only champion's name needs no mention
    shown = capsys.readouterr().out
    assert "tiny, entry 2" in shown and "runs/tiny-1a2b3c4d" in shown and str(store.root / "teacher/b") in shown
    assert command(store, "rollback") == 0
    assert command(store, "show") == 0
    assert "teacher   teacher/a" in capsys.readouterr().out
    assert command(store, "history") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in listed] == ["teacher/a", "teacher/b", "teacher/a"]
    assert "rollback" in listed[2]


def test_the_history_lists_nights_that_kept_the_champion(store, capsys):
    for night, name, difference, better in (
        ("22", "tiny", 0.1, False),
        ("23", "tiny", 0.4, True),
        ("24", "a", 0, False),
    ):
        test = FOUND.model_copy(update={"difference": -difference}).model_dump()
        summary = {
            "night": f"2026-11-{night}",
            "champion": BASE,
            "challenger": "teacher/c",
            "better": better,
            "test": test,
        }
        request = {"settings": {"run": {"name": name}}, "inputs": {}}
        put(store, f"refreshes/{name}-{night}", request=request, summary=summary)
    assert command(store, "history", "--name", "tiny") == 0  # though it has no champion yet
    (line,) = capsys.readouterr().out.splitlines()
    assert BASE in line and "kept" in line
    assert line.endswith("night 2026-11-22, teacher/c: 0.1 ± 0.05 higher, p = 1e-09")
    champions.promote(store, "tiny", "teacher/a")
    entry = json.loads(store.read(".champions/tiny/000001.json") or b"")
    for time, order in (("2000-01-01T00:00:00Z", ["1", "–"]), ("2100-01-01T00:00:00Z", ["–", "1"])):
        entry["who"]["time"] = time
        store.write(".champions/tiny/000001.json", json.dumps(entry).encode())
        assert command(store, "history") == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == order


def test_the_beginning_of_a_teachers_address_will_do(store, capsys):
    put(store, "teacher/750bd41c")
    assert command(store, "promote", "teacher/750b", "--name", "tiny") == 0
    assert "teacher   teacher/750bd41c" in capsys.readouterr().out
    assert champion(store) == "teacher/750bd41c"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show"], "there is no champion in"),
        (["show", "--name", "tiny"], "no such champion in"),
        (["show", "--name", "../tiny"], "--name = ../tiny: expected a settings' name"),
        (["history", "--name", "tiny"], "which has: none"),
        (["rollback", "--name", "tiny"], "champion tiny: no promotion to take back"),
        (["promote", "teacher/x", "--name", "tiny"], "TEACHER = teacher/x: not in the store"),
        (["promote", "student/a", "--name", "tiny"], "TEACHER = student/a: expected a teacher's address"),
        (["promote", "teacher/", "--name", "tiny"], "TEACHER = teacher/: begins 3 addresses"),
        (["promote", "teacher/../x", "--name", "tiny"], "TEACHER = teacher/../x: "),
        (["promote", "hub:a/b", "--name", "tiny"], "TEACHER = hub:a/b: expected a teacher's address"),
        (["promote", "teacher/a"], "give the --name that it is to have"),
    ],
)
def test_wrong_input_is_said_in_a_sentence(store, capsys, arguments, sentence):
    assert command(store, *arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err and len(err.splitlines()) == 1
    assert store.names(".champions/") == []


def test_a_store_that_is_not_there_is_not_made_by_a_look(tmp_path, capsys):
    assert cli.main(["champion", "show", "--store", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_entries_are_plain_json(store):
    champions.promote_tested(store, "tiny", "teacher/a", over=BASE, after=0, refresh="refreshes/one", test=FOUND)
    tree = json.loads(store.read(".champions/tiny/000001.json") or b"")
    assert tree["teacher"] == "teacher/a" and tree["test"]["p_value"] == 1e-9 and tree["how"] == "test"
