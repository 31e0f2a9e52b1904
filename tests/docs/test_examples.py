"""The commands, settings and make targets that README and docs print are those that exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from flows.commands import cli
from montessori.settings import files
from montessori.settings.run import Settings
from montessori.settings.study import Study
from montessori.settings.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SETTINGS_OF: dict[str, type[BaseModel]] = {
    "run": Settings,
    "refresh": Settings,
    "estimate": Settings,
    "evaluate": Suite,
    "study": Study,
}


def calls(command: str) -> list[object]:
    """Return the arguments of each call of `command` in a code block without a language."""
    called = re.compile(rf"(?:[A-Z_0-9]+=\S* )*(?:\.venv/bin/)?{command} ([a-z-].*)")
    return [
        pytest.param(shlex.split(match[1], comments=True), id=f"{page.name}: {match[1][:60]}")
        for page in PAGES
        for _, language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in text.replace("\\\n", " ").splitlines()
        if not language and (match := called.match(line.strip()))
    ]


@pytest.mark.parametrize("given", calls("montessori"))
def test_a_printed_command_exists_with_its_options_and_settings(given):
    options = cli._parser().parse_args(given)
    if overrides := getattr(options, "overrides", None):
        kind = SETTINGS_OF[options.command]
        try:
            kind.model_validate(files.with_overrides({}, overrides))
        except ValidationError as error:  # a file would have the other settings
            assert {one["type"] for one in error.errors()} <= {"missing", "value_error"}, str(error)


@pytest.mark.parametrize("given", calls("make"))
def test_a_printed_make_target_exists(given):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in given if "=" not in word]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert links and not missing


def test_a_printed_settings_file_loads():
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    trees = [
        tree
        for page in pages
        for _, language, text in BLOCK.findall(page)
        if language == "yaml" and isinstance(tree := yaml.safe_load(text), dict) and "name" in tree
    ]
    assert len(trees) >= 2
    for tree in trees:
        files.block(Study if files.is_study(tree) else Settings, tree, "the page")


def test_the_reference_has_every_command_and_setting():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate_reference.py")
    assert spec and spec.loader
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)

    made = reference.pages()
    for command in cli.COMMANDS:
        assert f"## montessori {command}\n" in made["commands"]
    for page, kind in (("settings", Settings), ("suite", Suite), ("study", Study)):
        for field in kind.model_fields:
            assert f"| `{field}` |" in made[page]
    assert "| `dpo.beta` | number, above 0 | `0.1` |" in made["settings"]
