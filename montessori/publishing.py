"""Publish a run's dataset or models on the Hugging Face hub: the files and a card, in one commit.

In: a run's folder or name, and the part to publish.  Out: the files of the repository, written to a folder for review,
or uploaded. No file names the machine (see `reporting.public`).
"""

import io
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from montessori import __version__
from montessori.artifacts import Store, open_store
from montessori.data.rows import Row, read_rows
from montessori.data.sources import HUB_NAME
from montessori.errors import InputError, StageError
from montessori.reporting import card, public
from montessori.reporting.run.systems import systems_of

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

What = Literal["data", "teacher", "student"]
Manifest = dict[str, Any]
Files = dict[str, bytes | Path]  # by their path in the repository

PROVENANCE_VERSION = 2  # the first version of the stage `instructions` that records the origin of each row
# A card can describe only runs with these settings.
PUBLISHABLE = {"method": "montessori", "update": "instructions", "signal": "influence"}

# The columns of the dataset: column → the artifact whose table has it, its name in that table, its meaning.
COLUMNS: dict[str, tuple[Literal["instructions", "pairs"], str, str]] = {
    "id": ("pairs", "id", "the point's name"),
    "instruction": ("pairs", "instruction", "the instruction"),
    "response": ("pairs", "response", "the teacher's answer to it; empty where it gave none"),
    "prompt_id": (
        "instructions",
        "prompt_id",
        "the prompt that it was generated from; several instructions may share it",
    ),
    "round": ("instructions", "round", "the round of its prompt, from 0"),
    "sample": ("instructions", "sample", "the number of its sample among those of the prompt, from 0"),
    "seed_ids": ("instructions", "seed_ids", "the seeds in the prompt"),
    "prompt": ("instructions", "prompt", "the prompt, as chat messages"),
    "raw": ("instructions", "raw", "the teacher's whole output"),
    "instruction_finish_reason": ("instructions", "finish_reason", "why the teacher's output ended"),
    "response_finish_reason": ("pairs", "finish_reason", "why the response ended"),
    "prompt_tokens": ("instructions", "prompt_tokens", "tokens of the prompt"),
    "raw_tokens": ("instructions", "tokens", "tokens of the teacher's whole output"),
    "instruction_tokens": ("pairs", "instruction_tokens", "tokens of the instruction, as a prompt"),
    "response_tokens": ("pairs", "response_tokens", "tokens of the response"),
    "instruction_seed": ("instructions", "seed", "seed of the prompt's random numbers"),
    "response_seed": ("pairs", "seed", "seed of the response's random numbers"),
    "engine": ("pairs", "engine", "the engine that ran the teacher"),
    "model": ("pairs", "model", "the teacher: its fingerprint, or its name on the hub or behind an endpoint"),
    "instruction_sampling": ("instructions", "sampling", "how the instruction was sampled, as JSON"),
    "response_sampling": ("pairs", "sampling", "how the response was sampled, as JSON"),
    "prompt_version": ("instructions", "prompt_version", "a hash of the prompt's wording"),
}


def find_run(run: str, store: str) -> tuple[Store, Manifest]:
    """Return the store and the manifest of the run in folder `run`, or of the run named `run` in `store`.

    Raises InputError where there is no such run, or where cards cannot describe it.
    """
    folder = Path(run).resolve()
    if folder.parent.name == "runs" and (folder / "manifest.json").is_file():
        store = str(folder.parents[1])
    opened, address = open_store(store), f"runs/{run.rstrip('/').rpartition('/')[2]}"
    if not opened.exists(address):
        known = ", ".join(name.removeprefix("runs/") for name in opened.addresses("runs")) or "none"
        raise InputError(f"RUN = {run}: no run's folder, and no run in {store}, which has: {known}")
    manifest = opened.manifest(address)
    settings = manifest["request"]["settings"]["run"]
    for name, value in {**settings, **settings["preferences"]}.items():
        if value != PUBLISHABLE.get(name, value):
            raise InputError(
                f"RUN = {run}: its {name} is {value}; cards are for runs with {name}: {PUBLISHABLE[name]} alone"
            )
    return opened, manifest


def choose_system(run: Manifest, what: What, system: str | None) -> str:
    """Return the requested system, or the last one that has `what`. Raises InputError where there is none."""
    inputs = run["request"]["inputs"]
    systems = [
        one.name
        for one in systems_of(run)
        if inputs.get(f"{one.name}:pairs")
        and (what != "teacher" or (inputs.get(f"{one.iteration}:teacher") and not one.part))
    ]
    if not systems:
        raise InputError(f"--what {what}: the run has no tuned teacher, since it has no iterations")
    system = system or systems[-1]
    if system not in systems:
        raise InputError(f"--system = {system}: the run has no {what} of such a system; it has: {', '.join(systems)}")
    return system


def build_files(store: Store, run: Manifest, *, what: What, system: str, repo: str, license: str | None) -> Files:
    """Return all files of the repository `repo`, checked against the checksums of the store."""
    inputs = run["request"]["inputs"]
    number = next(one.iteration for one in systems_of(run) if one.name == system)
    source = str(number) if what == "teacher" else system  # a teacher's card describes the texts of its own training
    (instructions,), responses = inputs[f"{source}:instructions"], inputs[f"{source}:pairs"]
    writer = inputs[f"{number}:teacher"][0] if what == "teacher" else _input(store, instructions, "teacher")
    if store.manifest(instructions)["request"]["version"] < PROVENANCE_VERSION:
        raise InputError(f"RUN = {run['address']}: an older version made it, which did not record how; run it again")
    story = card.Story(
        repo=repo,
        system=system,
        license=license,
        run=run,
        result=(store.open(run["address"]) / "result.md").read_text(encoding="utf-8"),
        sources=_sources(store, run, system),
        instructions=store.manifest(instructions),
        responses=[store.manifest(address) for address in responses],
        tuned=_tuned_teachers(store, writer),
    )
    if what == "data":
        rows = _rows(store, instructions, responses)
        columns = {column: says for column, (_, _, says) in COLUMNS.items()}
        return {"README.md": card.of_data(story, len(rows), columns).encode(), "data/train.parquet": _parquet(rows)}
    (model,) = inputs[f"{number}:teacher" if what == "teacher" else f"{system}:student"]
    folder, manifest = store.open(model), store.manifest(model)
    weights = {name.removeprefix("model/"): folder / name for name in manifest["files"] if name.startswith("model/")}
    return {**weights, "README.md": card.of_model(story, what, manifest).encode()}


def write_files(files: Files, folder: Path) -> str:
    """Write the repository's files to `folder`, which must be new or empty, and return its path."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--to = {folder}: there is something already; name a new or an empty folder")
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                shutil.copyfile(content, folder / name)
    except OSError as error:
        raise InputError(f"--to = {folder}: cannot be written ({error.strerror})") from None
    return str(folder)


def check_repo_name(repo: str) -> None:
    """Raise InputError unless `repo` looks like a repository's name. The hub checks its other rules itself."""
    if not HUB_NAME.fullmatch(repo) or "@" in repo:
        raise InputError(f"REPO = {repo}: expected user/name")


def read_token() -> str:
    """Return the user's token, from HF_TOKEN or `hf auth login`. Raises InputError when there is none."""
    from huggingface_hub import get_token

    token: str | None = get_token()
    if not token:
        raise InputError("no Hugging Face token: set HF_TOKEN to one that may write, or run `hf auth login`")
    if not token.isascii() or not token.isprintable():
        raise InputError("HF_TOKEN: not a token; one is on https://huggingface.co/settings/tokens")
    return token


def upload(files: Files, *, what: What, repo: str, token: str, is_public: bool) -> str:
    """Create `repo` if it is missing, commit the files to it in one commit, and return its URL.

    Raises InputError for problems that the user must mend, StageError when the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(token=token, library_name="montessori", library_version=__version__)
    kind = "dataset" if what == "data" else "model"
    with _describe_errors(repo, api.endpoint):
        url = api.create_repo(repo, repo_type=kind, private=not is_public, exist_ok=True)
        if bool(api.repo_info(repo, repo_type=kind).private) == is_public:  # an older repository
            raise InputError(
                f"REPO = {repo}: is there and {'private' if is_public else 'public'}, which a push does not change; "
                + ("make it public in its settings" if is_public else "add --public, or name another repository")
            )
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo, operations, commit_message=f"{what} of a run of Montessori", repo_type=kind)
    return str(url)


@contextmanager
def _describe_errors(repo: str, endpoint: str) -> Iterator[None]:
    """Turn the errors of the hub's client into one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    unreachable = cast(type[Exception], HfHubHTTPError.__bases__[0])  # the error of the client's HTTP library
    try:
        yield
    except HfHubHTTPError as error:
        raise _refusal(repo, endpoint, error) from None
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE is set; unset it to push, or write to a folder with --to") from None
    except (unreachable, OSError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(repo, endpoint, cause) from None
        raise StageError(
            f"the hub at {endpoint} cannot be reached, or broke off ({_line(cause)}); push again later"
        ) from None
    except json.JSONDecodeError:
        raise StageError(f"what answers at {endpoint} is no hub; see HF_ENDPOINT") from None
    except ValueError as error:
        raise InputError(f"REPO = {repo}: the hub does not take it ({_line(error)})") from None


def _refusal(repo: str, endpoint: str, error: "HfHubHTTPError") -> InputError | StageError:
    status, reason = error.response.status_code, " ".join((error.server_message or str(error)).split())[:300]
    if status == 401:
        return InputError(f"HF_TOKEN: the hub at {endpoint} refuses the token (401); set one that may write to {repo}")
    if status in (403, 404):
        return InputError(
            f"REPO = {repo}: the token may not write there ({status}: {reason}); see its rights and the name"
        )
    if status in (408, 409, 412, 429) or status >= 500:
        return StageError(f"the hub at {endpoint} could not do it now ({status}: {reason}); push again later")
    return InputError(f"REPO = {repo}: the hub does not take it ({status}: {reason})")


def _rows(store: Store, instructions: str, responses: list[str]) -> list[Row]:
    """Return the training points: instructions with their responses, in the instructions' order."""
    pairs = {row["id"]: row for address in responses for row in read_rows(store.open(address) / "pairs.parquet")}
    generated = read_rows(store.open(instructions) / "instructions.parquet")
    joined = [{"instructions": row, "pairs": pairs[row["id"]]} for row in generated]
    rows = [{name: both[table][field] for name, (table, field, _) in COLUMNS.items()} for both in joined]
    return [{**row, "model": public.address(str(row["model"]))} for row in rows]


def _parquet(rows: list[Row]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _sources(store: Store, run: Manifest, system: str) -> dict[str, str]:
    """Return the addresses of the run's sources by setting, from outside the store or generated."""
    inputs = run["request"]["inputs"]
    first: dict[str, str] = {}  # the first address of each stage
    for address in inputs["stages"]:
        first.setdefault(address.partition("/")[0], address)
    roles = [role for role in ("seeds", "reference", "test") if role in first]
    sources: dict[str, str] = {role: _input(store, first[role], "source") for role in roles}
    sources["teacher"] = _input(store, first["teacher" if "teacher" in first else "instructions"], "teacher")
    return {**sources, "student": _input(store, inputs[f"{system}:student"][0], "student")}


def _tuned_teachers(store: Store, writer: str) -> list[tuple[Manifest, str]]:
    """Return the teachers that DPO trained on the way to `writer`, oldest first, each with the writer of its pairs."""
    if not writer.startswith("teacher/"):
        return []
    pairs_writer = _input(store, _input(store, _input(store, writer, "preferences"), "instructions"), "teacher")
    return [*_tuned_teachers(store, _input(store, writer, "teacher")), (store.manifest(writer), pairs_writer)]


def _input(store: Store, address: str, name: str) -> str:
    """Return the single input `name` of the artifact at `address`."""
    (source,) = store.manifest(address)["request"]["inputs"][name]
    return str(source)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
