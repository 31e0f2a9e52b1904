"""What a MODEL on the command line stands for."""

from pathlib import Path

import pytest
from shelf import put

from montessori.artifacts import Folder
from montessori.errors import InputError
from montessori.evaluation import subjects


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """Two students, and a stage that leaves no model."""
    store = Folder(tmp_path / "store")
    for address in ("student/3c82aa", "student/3d00bb", "seeds/3c82aa"):
        put(store, address)
    return store


@pytest.mark.parametrize("text", ["student/3c82aa", "student/3c82", "student/3c/", "mine=student/3c82"])
def test_the_beginning_of_an_artifacts_address_will_do(store: Folder, text: str) -> None:
    (subject,) = subjects.find([text], store)
    assert subject.address == "student/3c82aa"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("student/3", "MODEL = student/3: begins 2 addresses, among them student/3c82aa and student/3d00bb"),
        ("student/ff", "MODEL = student/ff: not in the store"),
    ],
)
def test_a_beginning_of_none_or_several_is_wrong_input(store: Folder, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        subjects.find([text], store)
