"""Write the few-shot prompt for one new instruction, and parse the teacher's answer to it.

In: example instructions, or an answer.  Out: chat messages, or an instruction. The wording is ours. Its hash is in the
fingerprint of every artifact generated with it.
"""

import hashlib
import re
from collections.abc import Sequence

from montessori.data.chat import Message, user

TASK = (
    "You write tasks for a language model to practise on.\n"
    "Read the examples, then write one new task of the same kind: different in content, complete, "
    "and answerable with text alone.\n"
    "First say in one short sentence what the new task trains. "
    "Then write the task between <instruction> and </instruction>."
)
TAGGED = re.compile(r"<instruction>((?:(?!</?instruction>).)*)</instruction>", re.DOTALL)


def few_shot(examples: Sequence[str]) -> list[Message]:
    """Return the prompt with `examples` in the order given."""
    shots = "\n".join(f"<instruction>{example}</instruction>" for example in examples)
    return user(f"{TASK}\n\nExamples:\n{shots}\n\nNew task:")


def teacher_output(rationale: str, instruction: str) -> str:
    """Return an answer to `few_shot` in the requested form."""
    return f"{rationale}\n<instruction>{instruction}</instruction>"


def parse_instruction(raw: str) -> str | None:
    """Return the last tagged instruction in `raw` with its white space collapsed, or None when nothing is tagged."""
    tagged = TAGGED.findall(raw)
    return " ".join(tagged[-1].split()) if tagged else None


def wording() -> str:
    """Return a hash of the wording of `few_shot` and `teacher_output`."""
    text = few_shot(["an example"])[0]["content"] + teacher_output("why", "what")
    return hashlib.sha256(text.encode()).hexdigest()[:12]
