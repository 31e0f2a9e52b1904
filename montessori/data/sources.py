"""Check a run's sources outside the store, and give each an address, before anything heavy starts.

In: settings.  Out: an address for each source (see `artifacts.request`), or an InputError that names the field.
"""

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import cast

from montessori.artifacts.store import sha256
from montessori.data import rows as data
from montessori.data.chat import prompt_of
from montessori.data.files import data_files
from montessori.errors import InputError
from montessori.models import folder, state_folder
from montessori.settings.data import DataSource
from montessori.settings.run import Settings

POCKET = "pocket"
LESSON_ROWS = 9  # eight examples in a prompt, and the ninth row as the teacher's output
HUB_TIMEOUT_S = 10
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@\S+)?")


def addresses(settings: Settings) -> dict[str, str]:
    """Return the address of every source of a run by settings field, each one checked."""
    checked = {
        "seeds": rows(settings.seeds, "seeds.source"),
        "reference": rows(settings.reference, "reference.source"),
    }
    if settings.test:
        checked["test"] = rows(settings.test, "test.source")
    for role, given in (("teacher", settings.teacher), ("student", settings.student)):
        if given and given.source != "scratch":
            checked[role] = model(given.source, f"{role}.source")
    for name, given in settings.transfer.items():
        if given.source != "scratch":
            checked[f"transfer.{name}"] = model(given.source, f"transfer.{name}.source")
    if settings.rating.engine == "openai":
        checked["rating"] = f"api:{settings.rating.openai.model}@{settings.rating.openai.base_url}"
    elif settings.rating.source:
        checked["rating"] = model(settings.rating.source, "rating.source")
    _check_rows(settings, checked)
    return checked


def rows(source: DataSource, field: str) -> str:
    """Return the address of rows: the hash of their files, or the hub name.

    Raises InputError that begins with `field` when there is no such file, or no file of the split in a folder.
    """
    if source.source == POCKET:
        return POCKET
    if not data.is_file(source) and (HUB_NAME.fullmatch(source.source) or source.source.startswith(data.HUB_FILE)):
        parent = Path(source.source).parent
        if HUB_NAME.fullmatch(source.source) and parent.is_dir():
            raise InputError(f"{field} = {source.source}: no such file, though {parent} is a folder")
        return f"hub:{source.source}"
    path = Path(source.source).expanduser()
    if not path.exists():
        raise InputError(f"{field} = {source.source}: no such file (a hub name looks like user/name)")
    if path.is_dir():
        return _folder(path, data_files(path, source.split, f"{field} = {source.source}"))
    return f"file:{path.resolve()}#{sha256(path)}"


def model(source: str, field: str) -> str:
    """Return the address of a model. Raises InputError, naming `field`, when no model can be loaded from it."""
    path = Path(source).expanduser()
    if not path.is_dir():
        if not HUB_NAME.fullmatch(source):
            raise InputError(f"{field} = {source}: no such folder (a hub name looks like user/name)")
        if Path(source).parent.is_dir():
            raise InputError(f"{field} = {source}: no such folder, though {Path(source).parent} is one")
        return f"hub:{source}"
    try:
        folder.check_model_folder(path)
    except InputError as error:  # its message begins with the folder
        raise InputError(f"{field} = {error}") from None
    return _folder(path, folder.files_of(path))


def check_hub(models: Iterable[tuple[str, str]]) -> None:
    """Raise InputError for a model that is neither available on the hub nor in the local cache.

    `models` are pairs of a field and a name on the hub, `user/name[@revision]`. Downloads nothing.
    """
    for field, source in models:
        if reason := _hub_problem(*source.partition("@")[::2]):
            raise InputError(f"{field} = {source}: {reason}")


@cache
def _hub_problem(name: str, revision: str) -> str:
    """Return the reason that the model is unavailable, or "". Cached, because a study's cells share models."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    unreachable = cast(type[Exception], HfHubHTTPError.__bases__[0])  # the error of the client's HTTP library
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision or None), str):
        return ""
    hub = HfApi()
    try:
        info = hub.model_info(name, revision=revision or None, timeout=HUB_TIMEOUT_S)
        if info.gated:
            hub.auth_check(name)
    except GatedRepoError:
        return "its owner gives access on request: ask for it on the model's page, and set HF_TOKEN"
    except HfHubHTTPError as error:
        if (status := error.response.status_code) in (401, 403, 404):
            return f"the hub has no such model or revision, or HF_TOKEN may not see it ({status})"
        return f"the hub answers {status}; try again later"
    except (OSError, unreachable) as error:
        return f"the hub cannot be reached ({' '.join(str(error).split())[:200]}), and there is no local copy"
    files = {file.rfilename for file in info.siblings or []}
    return "" if "config.json" in files else "it has no config.json, so transformers cannot load it"


def optimizer_state(source: str, field: str) -> str:
    """Return the address of a folder with an optimizer state. Raises InputError, naming `field`, when it has none."""
    path = Path(source).expanduser()
    if not path.is_dir():
        raise InputError(f"{field} = {source}: no such folder" + "; give the folder of this file" * path.is_file())
    try:
        return _folder(path, state_folder.state_files(path))
    except InputError as error:  # its message begins with the folder
        raise InputError(f"{field} = {error}") from None


def _folder(path: Path, files: list[Path]) -> str:
    """Return the address of a folder by the content of `files`."""
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(f"{file.relative_to(path)} {sha256(file)}\n".encode())
    return f"file:{path.resolve()}#{whole.hexdigest()}"


def _check_rows(settings: Settings, checked: dict[str, str]) -> None:
    """Read the files once, to find bad lines, too few seeds, and held-out points in the reference set."""
    needed = settings.instructions.seed_shots + settings.instructions.generated_shots
    sources = {"seeds": settings.seeds, "reference": settings.reference, "test": settings.test}
    scratch = [role for role in ("teacher", "student") if (given := getattr(settings, role)) and given.scratch]
    read = {
        role: data.check(source, role, "optional" if role == "seeds" and not scratch else "needed")
        for role, source in sources.items()
        if source and checked[role].startswith("file:")
    }
    pocket = settings.pocket.seeds if checked["seeds"] == POCKET else needed  # hub rows are counted at loading
    seeds = len(read["seeds"]) if "seeds" in read else pocket
    if seeds < needed:
        raise InputError(
            f"seeds: {seeds} rows, but a prompt shows {needed} (instructions.seed_shots + generated_shots); add seeds"
        )
    if scratch and "seeds" in read and seeds < LESSON_ROWS:
        raise InputError(f"{scratch[0]}.source = scratch: needs {LESSON_ROWS} seeds to learn from, there are {seeds}")
    role = "test" if settings.test else "reference"
    if settings.evaluation.accuracy == "exact_match" and any(row.get("tools") for row in read.get(role, ())):
        raise InputError(
            f"{role}: has rows with tools, which a generated answer cannot use; set evaluation.accuracy=next_token"
        )
    if "reference" in read and "test" in read:
        shared = _questions(read["reference"]) & _questions(read["test"])
        if shared:
            raise InputError(
                f"test: {len(shared)} of its instructions are in the reference set too, for example "
                f"{min(shared)[-1][:80]!r}; held-out points must not be (see skip and limit)"
            )


def _questions(rows: list[data.Row]) -> set[tuple[str, ...]]:
    """Return the user's turns of each row."""
    return {tuple(turn["content"].strip() for turn in prompt_of(row) if turn["role"] == "user") for row in rows}
