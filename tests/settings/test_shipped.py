"""Settings files that ship with the package are found by name, and a wrong name gets a sentence that helps."""

from pathlib import Path

import pytest

from montessori.errors import InputError
from montessori.settings import shipped


def test_a_name_means_the_shipped_file_and_everything_else_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.path_of("tiny", "settings", "CONFIG") == shipped.CONFIGS / "tiny.yaml"
    assert shipped.path_of("quick", "suite", "--suite") == shipped.CONFIGS / "suites/quick.yaml"
    assert shipped.path_of("own/tiny", "settings", "CONFIG") == Path("own/tiny")
    assert shipped.path_of("tiny.yaml", "settings", "CONFIG") == Path("tiny.yaml")
    Path("tiny").mkdir()  # a folder of that name, such as a store, is not meant
    assert shipped.path_of("tiny", "settings", "CONFIG") == shipped.CONFIGS / "tiny.yaml"
    Path("mine").write_text("name: mine")
    assert shipped.path_of("mine", "settings", "CONFIG") == Path("mine")


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("pocket", "settings", "CONFIG = pocket: a study, no settings; `montessori study pocket` takes it"),
        ("tiny", "study", "CONFIG = tiny: a settings, no study; `montessori run tiny` takes it"),
        ("paper", "study", "CONFIG = paper: a suite, no study; `montessori evaluate MODEL --suite paper` takes it"),
        ("tyni", "settings", "CONFIG = tyni: no settings of that name; known: alpaca-mini, "),
    ],
)
def test_a_name_of_another_kind_is_told_with_the_command_that_takes_it(
    name: str, kind: shipped.Kind, says: str
) -> None:
    with pytest.raises(InputError) as error:
        shipped.path_of(name, kind, "CONFIG")
    assert str(error.value).startswith(says.replace("a settings", "settings"))
