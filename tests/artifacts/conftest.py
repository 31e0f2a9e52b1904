"""A store in a folder and one on a real S3 server."""

from pathlib import Path

import pytest
from s3 import Server, s3_keys, s3_server  # noqa: F401

from montessori.artifacts import Folder, Store, open_store


@pytest.fixture
def bucket(s3_server: Server, s3_keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:  # noqa: F811
    """An empty store on the server, with a cache of its own."""
    monkeypatch.setenv("MONTESSORI_CACHE", str(tmp_path / "cache"))
    return open_store(s3_server.uri())


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.long)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Folder(tmp_path / "store")
    store: Store = request.getfixturevalue("bucket")
    return store
