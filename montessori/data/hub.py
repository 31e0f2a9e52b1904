"""Read the rows of a dataset, or of one file, on the Hugging Face hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from montessori.data import files
from montessori.errors import InputError
from montessori.extras import require
from montessori.settings.data import DataSource

HUB_FILE = "hf://"  # the start of an address of one file in a hub repository


def hub_rows(source: DataSource, role: str) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a hub dataset unchanged, each after its place. With a limit only those rows are fetched."""
    require("score", purpose=f"{source.source}, a dataset of the hub,")
    if source.source.startswith(HUB_FILE):
        yield from files.file_rows(_download(source, role), role, named=source.source)
        return
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub import constants

    name, _, revision = source.source.partition("@")
    # A stream needs the hub, and takes no part of a split. A copy on this machine needs neither.
    streamed = source.limit is not None and source.split.isidentifier() and not constants.HF_HUB_OFFLINE
    try:
        table = load_dataset(name, source.config, split=source.split, revision=revision or None, streaming=streamed)
    except (DatasetNotFoundError, DatasetGenerationError, FileNotFoundError, ValueError, RuntimeError) as error:
        hint = "; name one with config" if "onfig name is missing" in str(error) else ""
        raise InputError(
            f"{files.source_name(role)} = {source.source}: cannot be loaded from the hub ({error}){hint}"
        ) from None
    number = 0
    for batch in table.with_format("arrow").iter(batch_size=files.BATCH):
        for row in files.table_rows(batch):
            number += 1
            yield f"{source.source}, row {number}", row


def _download(source: DataSource, role: str) -> Path:
    """Return the local copy of `hf://datasets/user/name[@revision]/file`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    field = f"{files.source_name(role)} = {source.source}"
    kind, _, rest = source.source.removeprefix(HUB_FILE).partition("/")
    user, _, rest = rest.partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    if kind != "datasets" or not file:
        raise InputError(f"{field}: expected hf://datasets/user/name[@revision]/file")
    if source.config is not None or source.split != "train":
        raise InputError(f"{field}: a file has no config and no split; leave them out")
    try:
        return Path(hf_hub_download(f"{user}/{name}", file, repo_type="dataset", revision=revision or None))
    except LocalEntryNotFoundError:  # no network and no copy: worth another try, which an InputError never gets
        raise
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        raise InputError(f"{field}: the hub has no such file, or HF_TOKEN may not see it ({error})") from None
