"""The S3 client of a store: its address with options, retries, and error messages in one sentence.

s3://bucket/prefix[?endpoint=http://127.0.0.1:9000&addressing=path]
"""

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from botocore.parsers import ResponseParserError
from pydantic import BaseModel, ConfigDict, model_validator
from s3transfer.exceptions import RetriesExceededError

from montessori.errors import InputError, StoreUnreachable
from montessori.settings import files

PATIENCE_S = 60.0  # how long to retry a request
CONNECTIONS = 32
UNREACHABLE = (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, RetriesExceededError)
BUSY = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "ConditionalRequestConflict"}
log = logging.getLogger(__name__)
T = TypeVar("T")


class Options(BaseModel):
    """The options after the `?` of an address. Credentials come from the places where boto3 looks for them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = None  # default: AWS_ENDPOINT_URL_S3, else Amazon's
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    checksums: Literal["when_required", "when_supported"] = "when_required"  # some servers refuse the SDK's checksums
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key: str | None = None
    unconditional: bool = False  # use a server without conditional puts

    @model_validator(mode="after")
    def _key_fits(self) -> "Options":
        if self.kms_key and not (self.sse or "").startswith("aws:kms"):
            raise ValueError("kms_key is for sse=aws:kms")
        return self


def parse_uri(uri: str) -> tuple[str, str, Options]:
    """Return the bucket, prefix and options in `uri`. Raises InputError for a wrong address."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise InputError(f"store = {uri}: expected s3://bucket/prefix") from None
    if not parts.netloc or "@" in parts.netloc:
        raise InputError(f"store = {parts._replace(netloc='…').geturl()}: expected s3://bucket/prefix, without keys")
    if ":" in parts.netloc or parts.fragment:
        raise InputError(f"store = {uri}: expected s3://bucket/prefix; a server is named by ?endpoint=http://host:9000")
    options = files.block(Options, dict(parse_qsl(parts.query, keep_blank_values=True)), f"store = {uri}")
    if options.endpoint and (not options.endpoint.startswith(("http://", "https://")) or "@" in options.endpoint):
        raise InputError(f"store = {uri}: endpoint must be an address like http://host:9000, without keys")
    return parts.netloc, unquote(parts.path).strip("/"), options


def client(uri: str, options: Options, attempts: int = 1, patient: bool = True) -> Any:
    """Return an S3 client whose SDK makes `attempts` attempts.

    One attempt is for requests under `retry`, more are for transfers. Without `patient` the timeouts are short.
    """
    settings = Config(
        connect_timeout=10 if patient else 5,
        read_timeout=60 if patient else 10,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": options.addressing},
        request_checksum_calculation=options.checksums,
        response_checksum_validation=options.checksums,
        user_agent_extra="montessori",
    )
    with plain_errors(uri, InputError):
        try:
            return boto3.session.Session().client(
                "s3", endpoint_url=options.endpoint, region_name=options.region, config=settings
            )
        except ValueError as error:
            raise InputError(f"store = {uri}: {error}") from None


def retry(ask: Callable[[], T], patience_s: float | None = None) -> T:
    """Return the result of `ask`. Ask again while the server is busy, cannot be reached, or breaks off."""
    until = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    for attempt in itertools.count():
        try:
            return ask()
        except (aws.ClientError, *UNREACHABLE) as error:
            # A request that takes longer than `patience_s` is still tried three times.
            if not _may_succeed_later(error) or (time.monotonic() > until and attempt >= 2):
                raise
            log.info("asked again: %s", error)
        time.sleep(min(5, 0.1 * 2**attempt) * random.uniform(0.5, 1))
    raise AssertionError("unreachable")


def status(error: aws.ClientError) -> int:
    """Return the HTTP status of the server's answer."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


@contextmanager
def plain_errors(uri: str, unreachable: type[Exception] = StoreUnreachable) -> Iterator[None]:
    """Turn errors of the server and of the SDK into errors with one plain sentence."""
    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as error:
        raise InputError(
            f"store = {uri}: no credentials ({_plain(error)}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a "
            "profile"
        ) from None
    except aws.ClientError as error:
        number = status(error)
        code = error.response["Error"].get("Code", "")
        reason = str(number) if code in ("", str(number)) else f"{number} {code}"  # an answer to HEAD has no code
        if code == "NoSuchBucket":
            raise InputError(f"store = {uri}: there is no such bucket; make it first") from None
        if number in (401, 403):
            raise InputError(f"store = {uri}: refused with these credentials ({reason})") from None
        raise unreachable(f"store = {uri}: the server answers {reason}") from None
    except UNREACHABLE as error:
        raise unreachable(f"store = {uri}: cannot be reached ({_plain(error)})") from None
    except (ResponseParserError, RecursionError):  # the SDK follows some redirections for ever
        raise unreachable(f"store = {uri}: what answers there does not speak S3") from None
    except aws.BotoCoreError as error:
        raise InputError(f"store = {uri}: {_plain(error)}") from None


def _may_succeed_later(error: Exception) -> bool:
    """Tell whether the same request may succeed later."""
    if not isinstance(error, aws.ClientError):
        return not isinstance(error, aws.SSLError)
    return (status(error) >= 500 and status(error) != 501) or status(error) == 429 or _code(error) in BUSY


def _code(error: aws.ClientError) -> str:
    return str(error.response["Error"].get("Code", ""))


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())
