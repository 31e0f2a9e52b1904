"""Connect to the Prefect server at PREFECT_API_URL, with one sentence for each thing that can go wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL

from montessori.errors import InputError, StageError

STARTS, START_S = 3, 60  # of Prefect's temporary server, which is ready in 9 s on an idle machine


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """Open a client of the server. Raises InputError when no server answers, or when it refuses a request."""
    where = f"PREFECT_API_URL = {PREFECT_API_URL.value()}"
    try:
        with get_client(sync_client=True) as client:
            _check_api(client, where)
            yield client
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise InputError(
                f"{where}: the Prefect server there refuses the password; set PREFECT_API_AUTH_STRING to its "
                "user:password"
            ) from None
        reason, _, _ = " ".join(str(error).split()).partition(" - For more information")
        raise InputError(f"{where}: {reason[:400]}") from None
    except httpx.HTTPError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: no Prefect server answers there ({reason})") from None


def start_server() -> None:
    """Start Prefect's temporary server, which its clients in this process then use.

    A busy machine can take longer than Prefect waits. Raises StageError when the third start takes too long as well.
    """
    for _ in range(STARTS):
        server = SubprocessASGIServer()
        try:
            server.start(timeout=START_S)
        except RuntimeError:
            server.stop()
        else:
            return
    raise StageError(
        f"Prefect's temporary server did not start within {START_S} s, {STARTS} times in a row; run without --prefect, "
        "or start one with `prefect server start` and set PREFECT_API_URL"
    )


def _check_api(client: SyncPrefectClient, where: str) -> None:
    """Raise InputError unless a Prefect API answers. Its version, unlike its health, needs the password."""
    try:
        client.api_version()
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
    except ValueError:  # a page of Prefect's UI
        pass
    else:
        return
    raise InputError(f"{where}: what answers there is no API of Prefect; its address ends in /api")
