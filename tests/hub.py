"""A hub of our own on loopback: what the real client and `datasets` need of the Hugging Face hub to push and read back.

Repositories are made, files come in by the pre-upload, LFS and commit calls, and are listed and served by revision. A
private repository is there only for its owner's token. Xet is not spoken: set HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".parquet", ".safetensors")  # to LFS; the rest goes into the commit itself
LICENSES = {"apache-2.0", "mit", "cc-by-4.0"}
PAGE = r"/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)"
REPO = r"(?P<kind>datasets|models)/(?P<name>[^/]+/[^/]+)"


@dataclass
class Repository:
    """A repository, with the files of its last commit."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)  # header, and the paths of each

    @property
    def sha(self) -> str:
        """A commit's name."""
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


@dataclass
class Hub:
    """What the hub has and has seen."""

    users: dict[str, str]  # user of each token
    repositories: dict[str, Repository] = field(default_factory=dict)  # by kind and name: datasets/user/name
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS, by SHA-256
    seen: list[tuple[str, bytes]] = field(default_factory=list)  # method and path, body, of all requests
    broken: int = 0  # a status with which to refuse everything
    url: str = ""

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """What to set so that a client talks to this hub, keeping its things in `home`."""
        given = {"HF_TOKEN": token} if token else {}
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*", **given}

    def uploaded(self) -> bytes:
        """All bytes that any client has sent, those in base64 as they were before."""
        sent = [body for _, body in self.seen] + [path.encode() for path, _ in self.seen]
        return b"\n".join([*sent, *(content for repo in self.repositories.values() for content in repo.files.values())])


@contextmanager
def running(**users: str) -> Iterator[Hub]:
    """A hub with the given users (user=token), on a free port."""
    hub = Hub({token: user for user, token in users.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", **more: Any):
        self.status, self.message, self.code, self.more = status, message, code, more


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append((f"{self.command} {path}", body))
        try:
            if self.hub.broken:
                raise _Refused(self.hub.broken, "Something went wrong")
            for method, pattern, answer in ROUTES:
                if method == ("GET" if self.command == "HEAD" else self.command) and (
                    found := re.fullmatch(pattern, path)
                ):
                    return answer(self, body, **found.groupdict())
            raise _Refused(404, f"no such path: {path}")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            return self._send({"error": refused.message, **refused.more}, refused.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _any  # noqa: N815

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def user(self) -> str | None:
        """Whose token came along. A token that nobody has is refused, as the real hub does."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def repository(self, kind: str, name: str, to_write: bool = False) -> Repository:
        found, user = self.hub.repositories.get(f"{kind}/{name}"), self.user()
        owner = name.partition("/")[0] == user
        if found is None or (found.private and not owner):
            raise _Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if to_write and not owner:
            raise _Refused(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return found

    def create(self, body: bytes) -> None:
        asked, user = json.loads(body), self.user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        kind, owner = f"{asked.get('type', 'model')}s", asked["organization"] or user
        name = f"{owner}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if f"{kind}/{name}" in self.hub.repositories and owner == user:
            raise _Refused(409, "You already created this repo", url=url)
        if owner != user:
            raise _Refused(403, f'You don\'t have the rights to create a repository under the namespace "{owner}"')
        self.hub.repositories[f"{kind}/{name}"] = Repository(private=asked.get("visibility") == "private")
        self._send({"url": url, "name": name})

    def validate(self, body: bytes) -> None:
        import yaml

        _, header, _ = json.loads(body)["content"].split("---\n", 2)
        given = yaml.safe_load(header).get("license")
        if given is not None and given not in LICENSES:
            return self._send({"errors": [{"message": f'"license" must be one of {sorted(LICENSES)}'}]}, 400)
        return self._send({"errors": [], "warnings": []})

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        there = self.repository(kind, name, to_write=True).files
        files = []
        for path in (file["path"] for file in json.loads(body)["files"]):
            mode = "lfs" if path.endswith(LARGE) else "regular"
            old = {"oid": _object(path, there[path])} if path in there else {}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **old})
        self._send({"files": files})

    def batch(self, body: bytes, kind: str | None, name: str) -> None:
        self.repository(kind or "models", name, to_write=True)
        objects = json.loads(body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.objects:
                wanted["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{wanted['oid']}"}}
        self._send({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(422, "not the content that was announced")
        self.hub.objects[oid] = body
        self._send({})

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self.repository(kind, name, to_write=True)
        lines = [json.loads(line) for line in body.splitlines()]
        added = {}
        for line in lines[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            added[value["path"]] = self.hub.objects[value["oid"]] if large else base64.b64decode(value["content"])
        repository.files |= added
        repository.commits.append({**lines[0]["value"], "paths": sorted(added)})
        self._send({"commitUrl": f"{self.hub.url}/{name}/commit/{repository.sha}", "commitOid": repository.sha})

    def info(self, body: bytes, kind: str, name: str, revision: str | None = None) -> None:
        found = self.repository(kind, name)
        files = [{"rfilename": path} for path in found.files]
        self._send({"_id": "0", "id": name, "private": found.private, "sha": found.sha, "siblings": files, "tags": []})

    def tree(self, body: bytes, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        found = self.repository(kind, name)
        inside = f"{folder.strip('/')}/" if folder else ""
        deep = "recursive=true" in self.path.lower()
        files = [self._entry(path, found.files[path]) for path in found.files if path.startswith(inside)]
        if not deep:
            files = [file for file in files if "/" not in file["path"].removeprefix(inside)]
        above = {parent for path in found.files for parent in map(str, Path(path).parents) if parent.startswith(inside)}
        folders = [
            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            for path in above - {"."}
            if path and (deep or "/" not in path.removeprefix(inside))
        ]
        if folder and not files and not folders:
            raise _Refused(404, f"{folder} does not exist", "EntryNotFound")
        self._send(files + folders)

    def paths(self, body: bytes, kind: str, name: str, revision: str) -> None:
        found = self.repository(kind, name)
        asked = json.loads(body)["paths"]
        folders = {str(parent) for path in found.files for parent in Path(path).parents}
        entries = [self._entry(path, found.files[path]) for path in asked if path in found.files]
        entries += [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in asked if p in folders]
        self._send(entries)

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "oid": "0" * 40, "size": len(content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": _object(path, content), "size": len(content), "pointerSize": 1}
        return entry

    def resolve(self, body: bytes, name: str, revision: str, path: str, kind: str | None = None) -> None:
        found = self.repository(kind or "models", name)
        if path not in found.files:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        content = found.files[path]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": found.sha}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            return self._send(content[first : last + 1], 206, headers)
        return self._send(content, 200, headers)


def _object(path: str, content: bytes) -> str:
    """A file's name as an object: its SHA-256 in LFS, git's SHA-1 of a blob elsewhere."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/{REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/objects/(?P<oid>[0-9a-f]{64})", _Handler.put),
    ("POST", f"/api/{REPO}/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("POST", f"/api/{REPO}/paths-info/(?P<revision>[^/]+)", _Handler.paths),
    ("GET", f"/api/{REPO}/tree/(?P<revision>[^/]+)(?P<folder>/.+)?", _Handler.tree),
    ("GET", f"/api/{REPO}(?:/revision/(?P<revision>[^/]+))?", _Handler.info),
    ("GET", rf"{PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
