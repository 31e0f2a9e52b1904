"""What the cells of a study were made with: the settings that papers tell, and what the study's file changes of them.

In: settings as JSON has them.  Out: values as text, by where they are.
"""

from collections.abc import Mapping
from typing import Any

BLOCKS = ("instructions", "responses", "probing", "warm_up", "influence", "preferences", "dpo", "sft")
USED = (  # further blocks, and which setting of any cell has them used
    ("bootstrap", "update", "bootstrap"),
    ("llm2llm", "method", "llm2llm"),
    ("rating", "method", "self-reward"),
    ("rating", "preferences.signal", "rating"),
)
LEFT_OUT = ("instructions.forbidden_words", "rating.vllm.", "rating.openai.")  # long, or where and how fast
NAMED = "rating.openai.model"  # but for this


def shared(study: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    """What all cells begin with, as `run`, the settings of the first one, has it."""
    trees = [_flat(run), *changes(study).values()]
    more = dict.fromkeys(block for block, name, value in USED if any(str(tree.get(name)) == value for tree in trees))
    found = _flat({name: run[name] for name in ("training_size", *BLOCKS, *more)})
    return {name: text for name, text in found.items() if name == NAMED or not name.startswith(LEFT_OUT)}


def changes(study: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What the study's file changes for a student, a system, or a row of an ablation, by its title."""
    named = {f"student {name}".strip(): change for name, change in study["students"].items()}
    named |= {f"system {name}": change for name, change in study["systems"].items()}
    for group, members in study["ablations"].items():
        named |= {f"{group}: {name}": change for name, change in members.items()}
    return {title: told for title, change in named.items() if (told := _flat(change))}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": str(value)}
    return found
