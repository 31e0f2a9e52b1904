"""A store in S3-compatible storage, with a cache on this machine.

    s3://bucket/prefix[?endpoint=http://127.0.0.1:9000&addressing=path]

    <prefix>/<stage>/<fingerprint>/<room>/files      uploaded first, by each writer into a room of its own
    <prefix>/<stage>/<fingerprint>/manifest.json     put last, on condition that there is none: it names the room

So an artifact is whole or not there, and of two writers one wins. This needs only a conditional put, which
`check_writable` tries, since some servers accept the condition and ignore it. The files of a killed writer are in no
manifest, and `sweep` removes them. The server's checksums are not used.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore import exceptions as aws

from montessori.artifacts import s3
from montessori.artifacts.cache import Cache
from montessori.artifacts.journal import Journal, PartedJournal
from montessori.artifacts.store import (
    JOURNALS,
    MANIFEST,
    Manifest,
    Store,
    Unfinished,
    build_manifest,
    check_address,
    decode_manifest,
    encode_manifest,
    find_spoilt,
    sha256_of_chunks,
)
from montessori.errors import ArtifactError, InputError, StoreUnreachable

FILES_AT_ONCE, PARTS_AT_ONCE = 4, 4  # at most 16 parts in memory
PART = 8 << 20  # bytes. A smaller file takes one request.
REQUESTS_AT_ONCE = 16
PROBES = ".probes"
NO_CONDITIONS = (304, 400, 405, 501)  # answers of servers that know no conditional put


class Bucket(Store):
    """The store under one prefix of a bucket."""

    def __init__(self, uri: str):
        self.uri = uri
        self._bucket, self._prefix, self._options = s3.parse_uri(uri)
        self._s3 = s3.client(uri, self._options)
        given = {"ServerSideEncryption": self._options.sse, "SSEKMSKeyId": self._options.kms_key}
        self._sealed = {name: value for name, value in given.items() if value}
        endpoint = self._s3.meta.endpoint_url
        self._cache = Cache(f"{endpoint}/{self._bucket}/{self._prefix}")
        self.logs = self._cache.root / "logs"

    def check_readable(self) -> None:
        """Raise InputError when the bucket does not answer one request within a few seconds."""
        quick = s3.client(self.uri, self._options, patient=False)
        with self._plain_errors(InputError):
            s3.retry(lambda: quick.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1), patience_s=3)

    def check_writable(self) -> None:
        """Put a document twice on condition that there is none.

        Raises InputError unless the server refuses the second put.
        """
        self.check_readable()
        self._cache.check_writable()
        name = f"{PROBES}/{uuid.uuid4().hex}"
        with self._plain_errors(InputError):
            try:
                both = [self._put_new(self._key(name), b"probe") for _ in range(2)]
                self._ask("delete_object", Key=self._key(name))
            except aws.ClientError as error:
                if s3.status(error) not in NO_CONDITIONS:
                    raise
                both = []
        if both != [True, False]:
            raise InputError(
                f"store = {self.uri}: this server does not honour If-None-Match, so two writers of one artifact "
                "could mix; use one that honours it, or add unconditional=true where never two runs write at the same "
                "time"
            )

    def exists(self, address: str) -> bool:
        """Tell whether the artifact has been committed."""
        return self._exists(self._key(check_address(address), MANIFEST))

    def manifest(self, address: str) -> Manifest:
        """Return the committed manifest. Raises ArtifactError when it is missing or spoilt."""
        text = self._get(self._key(check_address(address), MANIFEST))
        if text is None:
            raise ArtifactError(f"{address} is not in the store {self.uri}")
        manifest = decode_manifest(text, f"{self.locate(address)}/{MANIFEST}", _mend(address))
        if not isinstance(manifest.get("room"), str):  # copied from a local folder
            raise ArtifactError(f"{self.locate(address)}/{MANIFEST} does not say where its files are; {_mend(address)}")
        return manifest

    def open(self, address: str) -> Path:
        """Return the artifact's folder in the cache, and download it if it is not there."""
        if (cached := self._cache.get(check_address(address))) is not None:
            return cached
        manifest = self.manifest(address)
        with self._cache.staging() as folder, self._plain_errors(), ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            for failure in pool.map(lambda name: self._download(address, manifest, name, folder), manifest["files"]):
                if failure:
                    raise ArtifactError(failure)
            return self._cache.put(address, folder, manifest)

    def staging(self) -> AbstractContextManager[Path]:
        """Yield an empty folder in the cache."""
        return self._cache.staging()

    def commit(self, address: str, folder: Path, about: Manifest) -> bool:
        """Upload the files of `folder`, then try to put the manifest."""
        room = uuid.uuid4().hex
        manifest = {**build_manifest(address, folder, about), "room": room}
        if self.exists(address):
            return False
        with self._plain_errors():
            with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
                keys = {name: self._key(address, room, name) for name in manifest["files"]}
                list(pool.map(lambda name: self._upload(folder / name, keys[name]), keys))
            won = self._put_new(self._key(address, MANIFEST), encode_manifest(manifest))
        if not won:
            self._remove(keys.values())
            return False
        self._cache.put(address, folder, manifest)
        self._remove(self._keys(self._journal(address) + "/"))
        return True

    def addresses(self, stage: str = "") -> Iterator[str]:
        """Yield the addresses of all committed artifacts, or of those of one stage, sorted."""
        keys = (self._parts(key) for key in self._keys(self._key(stage, "") if stage else self._key("")))
        yield from sorted("/".join(parts[:2]) for parts in keys if _is_manifest(parts))

    def delete(self, address: str) -> None:
        """Remove the manifest, then the files that it names. A later writer has a room of its own."""
        try:
            manifest = self.manifest(address)
        except ArtifactError:
            manifest = None  # `sweep` removes the files
        with self._plain_errors():
            self._ask("delete_object", Key=self._key(check_address(address), MANIFEST))
        if manifest:
            self._remove(self._keys(self._key(address, manifest["room"], "")))
        self._cache.delete(address)

    @contextmanager
    def journal(self, address: str) -> Iterator[Journal]:
        """Open the journal of `address`. Two writers at once each keep their own entries."""
        yield PartedJournal(self, f"{JOURNALS}/{address.replace('/', '+')}")

    def journals(self) -> Iterator[Unfinished]:
        """Yield all journals."""
        by_address: dict[str, Unfinished] = {}
        start = len(self._key(JOURNALS, ""))
        for item in self._objects(self._key(JOURNALS, "")):
            address = item["Key"][start:].partition("/")[0].replace("+", "/")
            before = by_address.get(address, Unfinished(address, 0, 0.0))
            written = max(before.written, item["LastModified"].timestamp())
            by_address[address] = Unfinished(address, before.bytes + item["Size"], written)
        yield from by_address.values()

    def drop_journal(self, address: str) -> None:
        """Remove the journal of `address`."""
        self._remove(self._keys(self._journal(address) + "/"))

    def hash_file(self, address: str, manifest: Manifest, name: str, on_bytes: Callable[[int], None]) -> str:
        """Return the SHA-256 of one file on the server. `on_bytes` gets the size of each chunk."""
        key = self._key(address, manifest["room"], name)

        def hashed() -> str:
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
            return sha256_of_chunks(body.iter_chunks(1 << 20), on_bytes)

        with self._plain_errors():
            try:
                return s3.retry(hashed)
            except self._s3.exceptions.NoSuchKey:
                raise FileNotFoundError(key) from None

    def read(self, name: str) -> bytes | None:
        """Return the document `name`, or None."""
        return self._get(self._key(name))

    def write(self, name: str, content: bytes) -> None:
        """Put the document. S3 never shows half a document."""
        with self._plain_errors():
            self._ask("put_object", Key=self._key(name), Body=content, **self._sealed)

    def create(self, name: str, content: bytes) -> bool:
        """Put the document on condition that there is none."""
        with self._plain_errors():
            return self._put_new(self._key(name), content)

    def remove(self, name: str) -> None:
        """Remove the document `name`, if there is one."""
        with self._plain_errors():
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(name))

    def names(self, prefix: str) -> list[str]:
        """Return the names of the documents that begin with `prefix`, sorted."""
        assert prefix.startswith(".") and "/" in prefix, prefix
        return sorted(key[len(self._key("")) :] for key in self._keys(self._key(prefix)))

    def sweep(self, older_than_s: float, dry: bool = False) -> int:
        """Remove the objects that killed writers left at least `older_than_s` seconds ago.

        No writer may run for longer than that. The objects are files of no manifest, journals of committed artifacts,
        probes, and incomplete uploads.
        """
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        objects = [(self._parts(item["Key"]), item) for item in self._objects(self._key(""))]
        # Listed after the files, or new files would look like orphans.
        rooms = {(m["address"], m["room"]) for m in self.manifests()}
        journaled = {address.replace("/", "+") for address, _ in rooms}
        left = [
            item
            for parts, item in objects
            if item["LastModified"] < before
            and (
                (len(parts) > 3 and not parts[0].startswith(".") and ("/".join(parts[:2]), parts[2]) not in rooms)
                or (parts[0] == JOURNALS and parts[1] in journaled)
                or parts[0] == PROBES
            )
        ]
        with self._plain_errors():
            pages = self._s3.get_paginator("list_multipart_uploads")
            uploads = s3.retry(lambda: list(pages.paginate(Bucket=self._bucket, Prefix=self._key(""))))
            incomplete = [one for page in uploads for one in page.get("Uploads", []) if one["Initiated"] < before]
            if not dry:
                self._remove(item["Key"] for item in left)
                for one in incomplete:
                    self._ask("abort_multipart_upload", Key=one["Key"], UploadId=one["UploadId"])
        return sum(item["Size"] for item in left)

    def manifests(self, stage: str = "") -> Iterator[Manifest]:
        """Yield the manifests, several requests at a time. Deleted and spoilt ones are left out."""

        def manifest(address: str) -> Manifest | None:
            try:
                return self.manifest(address)
            except ArtifactError:
                return None

        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            yield from filter(None, pool.map(manifest, self.addresses(stage)))

    def _journaled_usage(self, address: str) -> dict[str, float]:
        used: dict[str, float] = json.loads(self.read(f"{JOURNALS}/{address.replace('/', '+')}/usage.json") or "{}")
        return used

    def _journal(self, address: str) -> str:
        return self._key(JOURNALS, address.replace("/", "+"))

    def _key(self, *parts: str) -> str:
        return "/".join([self._prefix, *parts] if self._prefix else parts)

    def _parts(self, key: str) -> list[str]:
        return key[len(self._key("")) :].split("/")

    def _ask(self, what: str, **parameters: Any) -> Any:
        return s3.retry(lambda: getattr(self._s3, what)(Bucket=self._bucket, **parameters))

    def _put_new(self, key: str, content: bytes) -> bool:
        """Put on condition that there is none.

        The writer's mark shows whether a put succeeded when its answer was lost.
        """
        mark = uuid.uuid4().hex
        given = {"Key": key, "Body": content, "Metadata": {"writer": mark}, **self._sealed}
        if self._options.unconditional:
            if self._exists(key):
                return False
            self._ask("put_object", **given)
            return True
        while True:
            try:
                self._ask("put_object", **given, IfNoneMatch="*")
                return True
            except aws.ClientError as error:
                if s3.status(error) != 412:
                    raise
            try:
                head = self._ask("head_object", Key=key)
            except aws.ClientError as error:
                if s3.status(error) != 404:
                    raise
            else:
                return bool(head["Metadata"].get("writer") == mark)
            time.sleep(0.1)  # the object that was there first has been deleted meanwhile

    def _exists(self, key: str) -> bool:
        with self._plain_errors():
            try:
                self._ask("head_object", Key=key)
            except aws.ClientError as error:
                if s3.status(error) != 404:
                    raise
                return False
        return True

    def _get(self, key: str) -> bytes | None:
        with self._plain_errors():
            try:
                content: bytes = s3.retry(lambda: self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read())
            except self._s3.exceptions.NoSuchKey:
                return None
        return content

    def _upload(self, path: Path, key: str) -> None:
        if path.stat().st_size <= PART:
            self._ask("put_object", Key=key, Body=path.read_bytes(), **self._sealed)
            return
        with self._transfers() as manager:
            s3.retry(lambda: manager.upload(str(path), self._bucket, key, extra_args=self._sealed).result())

    def _download(self, address: str, manifest: Manifest, name: str, folder: Path) -> str | None:
        """Download one file and check it, at most twice. Returns the error message, or None."""
        target, about = folder / name, manifest["files"][name]
        target.parent.mkdir(parents=True, exist_ok=True)
        key = self._key(address, manifest["room"], name)
        for _ in range(2):
            try:
                self._bring(key, target, about["bytes"])
            except FileNotFoundError:
                break
            if find_spoilt(folder, {name: about}) is None:
                return None
        return f"{self.locate(address)}/{name} is missing or differs from what was committed; {_mend(address)}"

    def _bring(self, key: str, target: Path, size: int) -> None:
        if size <= PART:
            if (content := self._get(key)) is None:
                raise FileNotFoundError(key)
            target.write_bytes(content)
            return
        with self._transfers() as manager:
            try:
                s3.retry(lambda: manager.download(self._bucket, key, str(target)).result())
            except aws.ClientError as error:
                if s3.status(error) != 404:
                    raise
                raise FileNotFoundError(key) from None

    def _transfers(self) -> Any:
        return create_transfer_manager(s3.client(self.uri, self._options, attempts=5), _PARTS)

    def _objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        with self._plain_errors():
            token: dict[str, str] = {}
            while True:
                page = self._ask("list_objects_v2", Prefix=prefix, **token)
                yield from page.get("Contents", [])
                if not page.get("IsTruncated"):
                    return
                token = {"ContinuationToken": page["NextContinuationToken"]}

    def _keys(self, prefix: str) -> list[str]:
        return [item["Key"] for item in self._objects(prefix)]

    def _remove(self, keys: Iterable[str]) -> None:
        with self._plain_errors(), ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            list(pool.map(lambda key: self._ask("delete_object", Key=key), keys))  # some servers have no delete of many

    def _plain_errors(self, unreachable: type[Exception] = StoreUnreachable) -> AbstractContextManager[None]:
        return s3.plain_errors(self.uri, unreachable)


_PARTS = TransferConfig(
    multipart_threshold=PART,
    multipart_chunksize=PART,
    max_concurrency=PARTS_AT_ONCE,
    max_io_queue=100,
    preferred_transfer_client="classic",
)


def _is_manifest(parts: list[str]) -> bool:
    return len(parts) == 3 and parts[2] == MANIFEST and not parts[0].startswith(".")


def _mend(address: str) -> str:
    return f"`montessori store verify {address} --delete-damaged` removes it, and the next run makes it again"
