"""Try the chat template, the tokenizer and the lengths of each model on real rows, before anything heavy starts.

A template that fails for preference optimization alone would otherwise stop a run after all else was computed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from montessori.artifacts import Request, is_artifact
from montessori.data import rows
from montessori.data.chat import Message, encode_pairs, endings, prompt_ids, prompt_of, user
from montessori.data.rows import Row
from montessori.errors import InputError
from montessori.models.loading import context_of, load_tokenizer
from montessori.settings.data import DataSource
from montessori.settings.models import ChatModel, Model
from montessori.settings.run import Settings
from montessori.settings.suite import Suite
from montessori.synthesis.prompts import few_shot, teacher_output
from tasks import registry
from tasks.runtime.job import location

PLAIN = {"id": "a plain row", "instruction": "Name a colour.", "response": "Red."}  # for sources that are not at hand


def check(settings: Settings, missing: Iterable[Request]) -> None:
    """Try each model that the `missing` requests of a run load from outside the store.

    Raises InputError that begins with the field of the model.
    """
    loading = [request for request in missing if registry.loads_model(request)]
    read = {address for request in loading for addresses in request.inputs.values() for address in addresses}
    seeds, reference = first_row(settings.seeds, "seeds"), first_row(settings.reference, "reference")
    students = {"student": settings.student} | {f"transfer.{name}": s for name, s in settings.transfer.items()}
    for role, model in students.items():
        if _is_read(model.source, read):
            try_model(model.source, role, model, [reference], max_length=model.max_length)
    teacher = settings.teacher
    if teacher and _is_read(teacher.source, read):
        few_shots = few_shot([seeds["instruction"]])
        raw = teacher_output("Why.", seeds["instruction"])
        pair = {"id": "a preference pair", "instruction": "", "messages": few_shots, "response": raw}
        prompts = [few_shots, user(seeds["instruction"])]
        try_model(teacher.source, "teacher", teacher, [pair], prompts, max_length=teacher.max_length)
        _check_room(settings, teacher)


def check_suite(suite: Suite, missing: Iterable[Request]) -> None:
    """Try each model and the judge that the `missing` requests of an evaluation load from outside the store.

    Raises InputError that names the model.
    """
    loaded = {
        (role, address)
        for request in missing
        if registry.loads_model(request) and "chat" in request.settings
        for role in ("student", "teacher", "judge")
        for address in request.inputs.get(role, ())
        if not is_artifact(address)
    }
    for role, address in sorted(loaded):
        if role == "judge" and suite.judge:
            try_model(location(address), "judge", suite.judge, [], [user("Which is better?")])
        elif role == "student":
            try_model(location(address), "MODEL", suite, [PLAIN], max_length=suite.max_length)
        else:
            try_model(location(address), "MODEL", suite, [], [user("Name a colour.")])


def try_model(
    source: str,
    role: str,
    model: ChatModel,
    examples: Sequence[Row],
    prompts: Sequence[Sequence[Message]] = (),
    *,
    max_length: int | None = None,
) -> None:
    """Turn rows into tokens as trainings and measurements do, and chats as generation does.

    Raises InputError that begins with `role`, the block of settings or the option of the model.
    """
    prompts = [*prompts, *(prompt_of(row) for row in examples)]
    named = f"{role} = {source}" if role == "MODEL" or role.startswith("--") else f"{role}.source = {source}"
    try:
        tokenizer = load_tokenizer(source, model.trust_remote_code, model.chat)
        encode_pairs(tokenizer, examples, max_length or 1 << 30)
        prompt_ids(tokenizer, prompts)
        for prompt in prompts:
            endings(tokenizer, prompt)
        context = context_of(source, model.trust_remote_code)
    except InputError as error:
        raise InputError(f"{named}: {str(error).removeprefix(f'{source}: ')}") from None
    # The default is cut to the context where the rows are tokenized.
    if max_length and context and max_length > context and "max_length" in model.model_fields_set:
        field = {"--student": "--max-length", "MODEL": "max_length"}.get(role, f"{role}.max_length")
        raise InputError(f"{field} = {max_length}: {source} has a context of {context} tokens; set it to that or less")


def first_row(source: DataSource, role: str) -> Row:
    """Return the first row of a local file with a response, or a plain row for other sources."""
    if not rows.is_file(source):
        return PLAIN
    row = rows.read(source.model_copy(update={"limit": 1}), role, "optional")[0]
    return row if row["response"] else {**row, "response": PLAIN["response"]}


def _check_room(settings: Settings, teacher: Model) -> None:
    """Raise InputError where an answer of the longest allowed length leaves no room for a prompt."""
    if settings.generation.engine == "openai":
        return
    limits = [context_of(teacher.source, teacher.trust_remote_code), settings.generation.context]
    context = min((limit for limit in limits if limit), default=None)
    for block in ("instructions", "responses"):
        longest = getattr(settings, block).sampling.max_tokens
        if context and longest >= context:
            raise InputError(
                f"{block}.sampling.max_tokens = {longest}: leaves no room for a prompt in the {context} tokens of "
                f"{teacher.source}; set it lower"
            )


def _is_read(source: str, addresses: Iterable[Any]) -> bool:
    own = f"file:{Path(source).expanduser().resolve()}#"
    return any(address == f"hub:{source}" or address.startswith(own) for address in addresses)
