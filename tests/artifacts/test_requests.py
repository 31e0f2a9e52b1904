"""The fingerprint of a request: what determines the result, and nothing else."""

import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from montessori.artifacts import Request, identity, is_artifact

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ADDRESSES = st.one_of(
    st.just("pocket"),
    st.from_regex(r"hub:[a-z]+/[a-z]+@[a-z]+", fullmatch=True),
    st.from_regex(r"(seeds|student)/[0-9a-f]{20}", fullmatch=True),
    st.from_regex(r"file:/[a-z#/ ]*#[0-9a-f]{64}", fullmatch=True),
)
REQUESTS = st.builds(
    Request,
    stage=st.sampled_from(["seeds", "influence"]),
    version=st.integers(1, 3),
    settings=st.dictionaries(st.text(), JSON, max_size=4),
    inputs=st.dictionaries(st.text(), st.lists(ADDRESSES, max_size=3), max_size=3),
    seed=st.integers(0, 2**31),
    shard=st.sampled_from([(0, 1), (0, 2), (1, 2)]),
    role=st.text(),
)
BASE = Request(
    stage="influence",
    version=1,
    settings={"estimator": "taylor", "training": {"learning_rate": 5e-6}},
    inputs={"student": ["student/ab12"], "points": ["split/01", "split/02"], "seeds": ["file:/a/b.jsonl#12ab"]},
    seed=3,
    shard=(0, 2),
)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "instructions"},
        {"version": 2},
        {"settings": {"estimator": "exact", "training": {"learning_rate": 5e-6}}},
        {"settings": {"estimator": "taylor", "training": {"learning_rate": 5.0000001e-6}}},
        {"settings": {"estimator": "taylor"}},
        {"inputs": BASE.inputs | {"student": ["student/ab13"]}},
        {"inputs": BASE.inputs | {"points": ["split/02", "split/01"]}},
        {"inputs": BASE.inputs | {"points": ["split/01"]}},
        {"inputs": BASE.inputs | {"seeds": ["file:/a/b.jsonl#12ac"]}},
        {"inputs": BASE.inputs | {"seeds": ["hub:a/b"]}},
        {"seed": 4},
        {"shard": (1, 2)},
        {"shard": (0, 3)},
    ],
)
def test_all_that_determines_the_result_is_in_the_fingerprint(change):
    assert BASE.model_copy(update=change).fingerprint != BASE.fingerprint


def test_every_field_is_either_in_the_fingerprint_or_known_not_to_matter():
    assert Request.model_fields.keys() == {
        "stage", "version", "settings", "inputs", "seed", "shard", "means", "kept_as",
        "system", "iteration", "part", "role", "cell",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"role": "another name"},
        {"system": "Montessori", "iteration": 2, "part": "training set", "cell": "seed 1"},
        {"kept_as": "runs/x"},
        {"means": {"budget": {"limits": {"usd": 1}}}},
        {"inputs": BASE.inputs | {"seeds": ["file:/elsewhere/copy#1.jsonl#12ab"]}},
    ],
)
def test_names_and_paths_are_not_in_the_fingerprint(change):
    assert BASE.model_copy(update=change).fingerprint == BASE.fingerprint


def shuffled(value: object, draw: random.Random) -> object:
    """`value` with the keys of every dict in another order."""
    if isinstance(value, dict):
        keys = draw.sample(list(value), len(value))
        return {key: shuffled(value[key], draw) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, draw) for item in value]
    return value


@settings(deadline=None)  # an example may take long on a busy machine
@given(REQUESTS, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(request_, draw):
    other = Request.model_validate(shuffled(request_.model_dump(), draw))
    assert other.fingerprint == request_.fingerprint


@settings(deadline=None)  # an example may take long on a busy machine
@given(REQUESTS)
def test_a_request_written_as_json_and_read_again_has_the_same_fingerprint(request_):
    assert Request.model_validate_json(request_.model_dump_json()).fingerprint == request_.fingerprint


@settings(deadline=None)  # an example may take long on a busy machine
@given(REQUESTS, REQUESTS)
def test_two_requests_share_a_fingerprint_only_when_they_ask_for_the_same(one, other):
    def what(request: Request) -> str:
        inputs = {name: [identity(a) for a in addresses] for name, addresses in request.inputs.items()}
        return json.dumps(
            [request.stage, request.version, request.settings, inputs, request.seed, request.shard], sort_keys=True
        )

    assert (one.fingerprint == other.fingerprint) == (what(one) == what(other))


def test_the_fingerprint_is_the_same_in_every_process_and_release():
    code = f"from montessori.artifacts import Request; print(Request.model_validate({BASE.model_dump()!r}).fingerprint)"
    fingerprints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert fingerprints == {BASE.fingerprint}
    assert BASE.fingerprint == "3703fa70caeac0cfe089"  # a store made by an earlier release must still be found


def test_an_address_is_the_stage_and_the_fingerprint_unless_it_has_one_of_its_own():
    assert BASE.address == f"influence/{BASE.fingerprint}"
    assert BASE.model_copy(update={"kept_as": "runs/tiny-1"}).address == "runs/tiny-1"


def test_a_title_says_which_shard():
    assert BASE.title == "influence 1/2"
    assert BASE.model_copy(update={"role": "iteration 1", "shard": (0, 1)}).title == "iteration 1"


def test_a_title_says_what_the_artifact_is_for():
    who = {"system": "Montessori", "iteration": 2, "part": "after the update"}
    assert BASE.model_copy(update=who).title == "Montessori iteration 2, after the update: influence 1/2"
    assert BASE.model_copy(update={**who, "cell": "seed 1"}).title.startswith("seed 1 · Montessori iteration 2")


def test_a_manifest_of_an_older_release_keeps_its_label_as_the_role():
    old = {
        **BASE.model_dump(exclude={"system", "iteration", "part", "role", "cell"}),
        "label": "Self-Instruct: student",
    }
    assert Request.model_validate(old).label == "Self-Instruct: student"
    assert Request.model_validate(old).fingerprint == BASE.fingerprint


@pytest.mark.parametrize(
    ("address", "artifact"),
    [("seeds/ab12", True), ("runs/x", True), ("file:/a/b#c", False), ("hub:user/name", False), ("pocket", False)],
)
def test_artifacts_are_told_from_other_inputs(address, artifact):
    assert is_artifact(address) is artifact


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="extra"):
        Request.model_validate(BASE.model_dump() | {"gpu": 1})
