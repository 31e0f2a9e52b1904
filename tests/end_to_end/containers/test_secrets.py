"""After a run in the stack, no key and no password is where it does not belong: in anything that was kept or said.

They are in the environment of the containers that need them, and in docker/.env, by design.
"""

import json
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterable
from urllib.parse import quote

import pytest
from prefect_server import eventually
from stack import BUCKET, DOCKER, IMAGES, LOCKED, PLANTED, PROJECT, STARTING_S, TAG, TARGETS, Ran, Stack, done

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("docker")]
PG_DUMP = "/usr/lib/postgresql/15/bin/pg_dump"


@pytest.fixture(scope="module")
def secrets(stack: Stack) -> dict[bytes, str]:
    """What to look for, by what it is: every secret of the stack, as it is and as requests and addresses have it."""
    own = stack.secrets
    found = {
        name: own[name]
        for name in ("MONTESSORI_PREFECT_AUTH", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "AWS_SECRET_ACCESS_KEY")
    }
    found |= {**PLANTED, "the UI's password alone": own["MONTESSORI_PREFECT_AUTH"].partition(":")[2]}
    forms = {}
    for name, value in found.items():
        basic = b64encode(value.encode())
        forms |= {value.encode(): name, basic.rstrip(b"="): f"{name} in base 64", quote(value, safe="").encode(): name}
    return forms


@pytest.fixture(scope="module", autouse=True)
def runs_that_ended_badly(stack: Stack, ran: Ran) -> None:
    """Errors talk more than what goes well, and who is killed leaves things lying about."""
    failed = stack.started_in_the_ui(store="s3://nobodys-bucket/store")
    assert failed.state_name == "Failed" and "nobodys-bucket" in str(failed.state and failed.state.message)
    with stack.prefect() as client:
        killed = stack.start_in_the_ui(client, store="s3://montessori/killed", place="process")
        eventually(lambda: client.read_flow_run(killed).state_name == "Running" or None, STARTING_S)
        done(DOCKER, "kill", *done(DOCKER, "ps", "-q", "--filter", f"label=io.prefect.flow-run-id={killed}").split())
        client.delete_flow_run(killed)  # else it would be started again


def found_in(content: bytes | str, secrets: dict[bytes, str]) -> set[str]:
    text = content.encode() if isinstance(content, str) else content
    return {name for secret, name in secrets.items() if secret in text}


def container(stack: Stack, service: str) -> str:
    return str(stack.containers()[service]["Name"]).strip("/")


def everything_in(paths: Iterable[str], image: str, secrets: dict[bytes, str], *options: str) -> str:
    """The files under `paths` of a container that hold a secret; the secrets go in where no command line shows them."""
    look = f"grep -rlaFf - {' '.join(paths)} 2>/dev/null; true"
    words = (DOCKER, "run", "-i", *LOCKED, *options, f"{IMAGES}-{image}:{TAG}", "sh", "-c", look)
    return done(*words, timeout=600, input="\n".join(secret.decode() for secret in secrets))


def test_they_are_where_they_are_needed(stack: Stack, secrets):
    """Else the tests below would look for something that is not there."""
    worker = json.dumps(stack.containers()["worker"]["Config"]["Env"])
    assert {"MONTESSORI_PREFECT_AUTH", "AWS_SECRET_ACCESS_KEY", *PLANTED} <= found_in(worker, secrets)
    assert not found_in(worker, secrets) & {"POSTGRES_PASSWORD", "REDIS_PASSWORD"}


def test_no_object_of_the_store_holds_one(stack: Stack, ran: Ran, secrets):
    client, looked_at = stack.client(), 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page["Contents"]:
            content = client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
            assert not found_in(item["Key"], secrets) | found_in(content, secrets), item["Key"]
            looked_at += 1
    assert looked_at > 100


def test_neither_the_data_base_nor_the_broker_has_heard_of_one(stack: Stack, ran: Ran, secrets):
    dump = done(DOCKER, "exec", container(stack, "postgres"), PG_DUMP, "-h", "/tmp", "prefect", timeout=300)
    assert str(ran.again.id) in dump  # runs, states, logs, events, deployments, templates: all there is
    assert not found_in(dump, secrets)
    events = done(DOCKER, "exec", container(stack, "redis"), "sh", "-c", "cat /data/appendonlydir/* | base64 -w0")
    assert len(events) > 1000
    assert not found_in(b64decode(events), secrets)


def test_no_container_has_logged_one(stack: Stack, ran: Ran, secrets):
    filters = (f"label=com.docker.compose.project={PROJECT}", f"network={PROJECT}")
    ids = {one for name in filters for one in done(DOCKER, "ps", "-aq", "--filter", name).split()}
    assert len(ids) >= 8
    logs = {}
    for one in ids:
        said = subprocess.run([DOCKER, "logs", one], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
        logs[one] = said.stdout
        assert not found_in(said.stdout, secrets), one
    assert any(b"Montessori iteration 1" in text for text in logs.values())  # the worker repeats what stages said


def test_the_screen_and_what_is_kept_beside_the_store_are_without(stack: Stack, ran: Ran, secrets):
    assert not found_in(ran.said, secrets)
    files = [path for path in ran.cache.rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" for path in files)
    for path in files:
        assert not found_in(path.read_bytes(), secrets), path
    assert everything_in(["/scratch"], "worker-cpu", secrets, "--volume", "montessori-scratch:/scratch:ro") == ""


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_holds_one_nor_how_it_was_made(stack: Stack, secrets, target):
    image = f"{IMAGES}-{target}:{TAG}"
    said = done(DOCKER, "history", "--no-trunc", image) + done(DOCKER, "image", "inspect", image)
    assert not found_in(said, secrets)
    assert (
        everything_in(["/etc", "/opt", "/montessori", "/root", "/home", "/usr/local"], target, secrets, "-u", "0") == ""
    )
