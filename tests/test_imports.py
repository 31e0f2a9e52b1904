"""Which room may import which, and what stays out of a quick command."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from montessori.settings.base import Frozen
from tasks import registry

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "montessori": {"prefect", "tasks", "flows"},
    "tasks": {"flows"},
}


def imported(tree: ast.AST) -> set[str]:
    """The top-level packages that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("a relative import" if node.level else (node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_from_flows_to_tasks_to_montessori(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): sorted(found)
        for file in files
        if (found := imported(ast.parse(file.read_text(encoding="utf-8"))) & (FORBIDDEN[room] | {"a relative import"}))
    }
    assert wrong == {}


def test_imports_are_seen_wherever_they_stand():
    code = "import a.b\ndef f():\n    from c.d import e\n    if True:\n        import g as h\nfrom . import i\n"
    assert imported(ast.parse(code)) == {"a", "c", "g", "a relative import"}


HEAVY = ["torch", "transformers", "prefect", "trl", "peft", "datasets", "accelerate", "matplotlib", "pyarrow"]


def loaded_by(code: str) -> list[str]:
    report = f"import sys, json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["refresh", "--help"],
        ["champion", "show", "--help"],
        ["store", "gc", "--help"],
        ["status", "--help"],
        ["reports", "--help"],
        ["score", "--help"],
        ["evaluate", "--help"],
        ["push", "--help"],
    ],
)
def test_help_loads_nothing_heavy(words):
    assert (
        loaded_by(f"import flows.commands.cli\ntry:\n    flows.commands.cli.main({words!r})\nexcept SystemExit: pass")
        == []
    )


def test_a_wrong_setting_is_found_without_loading_a_model_library():
    assert (
        loaded_by("import flows.commands.cli; assert flows.commands.cli.main(['run', 'tiny', '--set', 'x=1']) == 2")
        == []
    )


def test_sources_are_checked_without_loading_a_model_library():
    code = (
        "from montessori.data import sources; from montessori.settings import files, shipped; "
        "sources.addresses(files.load(shipped.CONFIGS / 'tiny.yaml'))"
    )
    assert loaded_by(code) in ([], ["pyarrow"])


@pytest.mark.parametrize("task", registry.TASKS)
def test_every_task_has_settings_and_a_function_that_runs_it(task):
    module = registry.module(task)
    assert issubclass(module.Settings, Frozen)
    assert callable(module.run)
    assert module.run.__doc__


def test_every_task_module_is_in_the_registry():
    tasks = ROOT / "tasks"
    files = {*tasks.glob("*.py"), *tasks.glob("benchmarks/*.py"), *tasks.glob("reports/*.py")}
    modules = {
        str(file.relative_to(tasks).with_suffix("")).replace("/", ".") for file in files if "__" not in file.stem
    }
    assert modules - {"registry"} == {task.module for task in registry.TASKS.values()}
