"""The few-shot prompt from which the teacher writes one new instruction.

In: example instructions.  Out: chat messages.  The wording is ours; its hash is in the
fingerprint of everything made with it.
"""

import hashlib
from collections.abc import Sequence

from montessori.data.chat import Message, user

TASK = (
    "You write tasks for a language model to practise on.\n"
    "Read the examples, then write one new task of the same kind: different in content, complete, "
    "and answerable with text alone.\n"
    "First say in one short sentence what the new task trains. "
    "Then write the task between <instruction> and </instruction>."
)


def few_shot(examples: Sequence[str]) -> list[Message]:
    """The prompt with `examples`, in the order given."""
    shown = "\n".join(f"<instruction>{example}</instruction>" for example in examples)
    return user(f"{TASK}\n\nExamples:\n{shown}\n\nNew task:")


def teacher_output(rationale: str, instruction: str) -> str:
    """An answer to `few_shot` in the form that it asks for."""
    return f"{rationale}\n<instruction>{instruction}</instruction>"


def wording() -> str:
    """A hash of what `few_shot` and `teacher_output` say."""
    said = few_shot(["an example"])[0]["content"] + teacher_output("why", "what")
    return hashlib.sha256(said.encode()).hexdigest()[:12]
