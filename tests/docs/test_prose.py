"""The measure of prose: which pages it refuses, and why."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "prose.py"
EASY = "A run writes a report into the store. " * 30


def measured(folder: Path, **pages: str) -> subprocess.CompletedProcess[str]:
    """Run the script over these pages of docs/."""
    (folder / "docs" / "how-to").mkdir(parents=True)
    for name, text in pages.items():
        (folder / "docs" / "how-to" / f"{name}.md").write_text(text, encoding="utf-8")
    return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)


def test_easy_pages_pass(tmp_path):
    ended = measured(tmp_path, easy=EASY)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_page_of_many_colons_fails_and_is_named(tmp_path):
    ended = measured(tmp_path, easy=EASY * 100, colons=EASY + "This: that is; so. ")
    assert ended.returncode == 1
    assert "docs/how-to/colons.md: " in ended.stderr and "easy" not in ended.stderr


def test_a_page_of_many_relative_pronouns_fails(tmp_path):
    ended = measured(tmp_path, pronouns=EASY + "The run which writes what that run whose store wrote. ")
    assert ended.returncode == 1
    assert "pronouns.md" in ended.stderr


def test_tables_code_and_html_do_not_count(tmp_path):
    aside = (
        "\n\n| a: b; c: d | that |\n\n```yaml\nwhat: that; which: that\n```\n\n    that: what; \n\n<p>that: which</p>\n"
    )
    assert measured(tmp_path, page=EASY + aside * 10).returncode == 0


def test_short_pages_count_only_together(tmp_path):
    assert measured(tmp_path, short="This page: short. That is it; no more.", easy=EASY * 100).returncode == 0
    assert measured(tmp_path / "alone", short="This page: short. That is it; no more.").returncode == 1
