"""Store artifacts: folders of files under the fingerprint of their request, committed whole or not at all."""

from pathlib import Path

from montessori.artifacts.folder import Folder
from montessori.artifacts.journal import Journal
from montessori.artifacts.request import Request, identity, is_artifact
from montessori.artifacts.store import Store
from montessori.errors import InputError
from montessori.extras import require


def open_store(uri: str | Path) -> Store:
    """Return the store at `uri`, a local folder or s3://bucket/prefix. Raises InputError for anything else."""
    if not str(uri).strip():
        raise InputError("store is empty: expected a folder, for example ./store, or s3://bucket/prefix")
    scheme, separator, _ = str(uri).partition("://")
    if not separator:
        return Folder(uri)
    if scheme != "s3":
        raise InputError(f"store = {uri}: expected a folder, for example ./store, or s3://bucket/prefix")
    require("s3", purpose=f"store = {uri}")
    from montessori.artifacts.bucket import Bucket

    return Bucket(str(uri))


__all__ = ["Folder", "Journal", "Request", "Store", "identity", "is_artifact", "open_store"]
