"""Runs in the stack: each stage a container, artifacts in S3, the report in a browser."""

import json
import urllib.request
from pathlib import Path

import pytest
from harness import contents
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from stack import Ran, Stack

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("docker")]


def test_four_shards_in_four_containers_score_as_one_process_does(ran: Ran, stack: Stack, four: Path):
    undisturbed, found = contents(four), stack.contents("store")
    assert len([address for address in found if address.startswith("influence/")]) == 8  # before and after the update
    assert found == {address: undisturbed[address] for address in found}
    hosts = {
        json.load(stack.client().get_object(Bucket="montessori", Key=f"store/{address}/manifest.json")["Body"])[
            "made_by"
        ]["host"]
        for address in found
        if address.startswith("influence/")
    }
    assert len(hosts) == 8


def test_the_run_is_told_as_that_of_one_process_is(ran: Ran, stack: Stack, four: Path):
    assert ran.again.state
    run = str(ran.again.state.message)
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.reports}/{run}/run.yaml", timeout=60) as answer:
        assert answer.read() == (four / run / "run.yaml").read_bytes()
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.reports}/{run}/summary.json", timeout=60) as answer:
        there, here = json.load(answer), json.loads((four / run / "summary.json").read_text())
    assert list(there["systems"].items()) == list(here["systems"].items())


def test_the_link_in_the_ui_leads_to_the_report(ran: Ran, stack: Stack):
    assert ran.again.state and ran.again.state_name == "Completed", ran.again.state
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[ran.again.id]))
    with stack.prefect() as client:
        (link,) = (one for one in client.read_artifacts(artifact_filter=wanted) if one.key == "report")
    address = f"http://127.0.0.1:{stack.reports}/{ran.again.state.message}/report.html"
    assert f"({address})" in str(link.data)
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "Montessori report" in answer.read().decode()
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.reports}", timeout=60) as answer:
        assert str(ran.again.state.message).partition("/")[2] in answer.read().decode()
