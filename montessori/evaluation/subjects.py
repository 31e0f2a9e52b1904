"""Resolve each MODEL on the command line of an evaluation.

models/student              a folder with safetensors and a tokenizer
user/name[@revision]        a name on the hub
student/3f2a…               an artifact of the store, or the start of its address
tiny-1a2b3c4d               all students of a run, or one of them as tiny-1a2b3c4d:Self-Instruct
better=models/student       any of these under another name
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from montessori.artifacts import Request, Store
from montessori.artifacts.catalogue import resolve
from montessori.artifacts.store import ADDRESS
from montessori.data import sources
from montessori.errors import InputError
from montessori.reporting.run.systems import systems_of

MODELS = ("student", "warm-up", "teacher", "scratch-student", "scratch-teacher")  # stages whose artifact is a model


@dataclass(frozen=True)
class Subject:
    """A model to measure."""

    label: str
    address: str
    data: tuple[str, ...] = ()  # artifacts of its training set, if it is a run's
    metrics: str | None = None  # artifact with its losses, if a run has measured them
    reference: str | None = None  # the reference set of that run


REFERENCE = "reference"  # baseline: the answers that come with AlpacaEval


def default_baseline(labels: Sequence[str]) -> str:
    """Return the default baseline: a run's Self-Instruct student, else the first model."""
    return "Self-Instruct" if "Self-Instruct" in labels else labels[0]


def find(given: Sequence[str], store: Store) -> list[Subject]:
    """Return the models of the arguments `given`, in order. Raises InputError for an argument that is no model."""
    pairs = [(text, subject) for text in given for subject in _named(text, store)]
    labels = [subject.label for _, subject in pairs]
    for text, subject in pairs:
        if labels.count(subject.label) > 1:
            raise InputError(f"MODEL = {text}: two are called {subject.label!r}; name one, for example mine={text}")
        if subject.label == REFERENCE:
            raise InputError(f"MODEL = {text}: {REFERENCE} means AlpacaEval's own answers; name it otherwise")
    return [subject for _, subject in pairs]


def _named(text: str, store: Store) -> Iterator[Subject]:
    label, equals, rest = text.partition("=")
    if "/" in label:  # a path with a = in it
        label, equals, rest = "", "", ""
    subjects = list(_resolve(rest if equals else text, store))
    if equals and (not label or len(subjects) != 1):
        raise InputError(f"MODEL = {text}: expected name=MODEL, where MODEL is a single one")
    yield from (replace(subject, label=label) for subject in subjects) if equals else subjects


def _resolve(text: str, store: Store) -> Iterator[Subject]:
    path = Path(text).expanduser()
    run, _, system = text.partition(":")
    name = "runs/" + Path(run.rstrip("/")).name
    if (not Path(run).exists() or Path(run).resolve().parent.name == "runs") and _there(name, store):
        yield from _of_run(name, system, store)
    elif (address := f"{path.parent.name}/{path.name}").startswith(MODELS) and _there(address, store):
        yield _of_artifact(address, store)
    elif path.is_dir() and (path / "manifest.json").is_file() and (path / "model").is_dir():
        yield Subject(path.name, sources.model(str(path / "model"), "MODEL"))
    elif path.is_dir():
        yield Subject(path.name, sources.model(text, "MODEL"))
    elif text.startswith(tuple(f"{stage}/" for stage in MODELS)):
        try:
            artifact = resolve(address, store.addresses(path.parts[0]))
        except InputError as error:
            raise InputError(f"MODEL = {error}") from None
        yield _of_artifact(artifact, store)
    elif "/" in text and Path(path.parts[0]).is_dir():
        raise InputError(f"MODEL = {text}: no such folder, though {path.parts[0]} is one")
    elif "/" not in text:
        known = ", ".join(address.partition("/")[2] for address in store.addresses("runs")) or "none"
        raise InputError(f"MODEL = {text}: no such folder, and no such run in {store.uri}, which has: {known}")
    else:
        yield Subject(text, sources.model(text, "MODEL"))


def _of_artifact(address: str, store: Store) -> Subject:
    request = Request.model_validate(store.manifest(address)["request"])
    name = request.who or request.stage
    return Subject(f"{name} ({address.partition('/')[2][:6]})", address)


def _of_run(run: str, system: str, store: Store) -> Iterator[Subject]:
    manifest = store.manifest(run)
    inputs = manifest["request"]["inputs"]
    students = {one.name: inputs[f"{one.name}:student"] for one in systems_of(manifest)}
    if system and system not in students:
        raise InputError(
            f"MODEL = {run.partition('/')[2]}:{system}: the run has no such system; it has: " + ", ".join(students)
        )
    for name, (address,) in students.items():
        if not system or name == system:
            (metrics,) = inputs[f"{name}:metrics"]
            (reference,) = inputs["reference"]
            yield Subject(name, address, tuple(inputs[f"{name}:pairs"]), metrics, reference)


def _there(address: str, store: Store) -> bool:
    return bool(ADDRESS.fullmatch(address)) and ".." not in address and store.exists(address)
