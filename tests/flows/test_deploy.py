"""What is registered on a Prefect server, without one: the forms. What becomes of the templates is in tests/infra."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect.server.schemas.actions import WorkPoolCreate
from pydantic import ValidationError

from flows import form as forms
from flows.deployment.deploy import TEMPLATES, DeployOptions, Kind, _check
from flows.evaluate import evaluate
from flows.montessori import montessori
from flows.study import study
from flows.teacher_refresh import teacher_refresh
from montessori.errors import InputError
from montessori.settings import shipped

KINDS = ["process", "docker", "kubernetes"]


def template(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((TEMPLATES / f"{kind}.json").read_text())
    return found


def test_an_empty_form_means_the_settings_as_they_are() -> None:
    assert forms.settings_of("tiny") == forms.settings_of("tiny", teacher="", student="", overrides=[], store="")


def test_a_form_changes_the_settings_that_it_names() -> None:
    found = forms.settings_of(
        "tiny",
        method="self-reward",
        iterations=1,
        teacher="user/teacher",
        student="user/student@main",
        estimator="exact",
        overrides=["dpo.beta=0.2"],
        place="pool",
        store="s3://bucket/prefix",
    )
    assert (found.method, found.iterations) == ("self-reward", 1)
    assert (found.influence.estimator, found.dpo.beta) == ("exact", 0.2)
    assert found.teacher and found.teacher.source == "user/teacher" and found.teacher.scratch is None
    assert found.student.source == "user/student@main"
    assert (found.compute.place, found.store) == ("pool", "s3://bucket/prefix")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"config": "tyni"}, "config = tyni: no settings of that name; known: alpaca-mini"),
        ({"config": "no/such.yaml"}, "no/such.yaml: no such file"),
        ({"config": "tiny", "overrides": ["dpo.beat=1"]}, "did you mean dpo.beta"),
    ],
)
def test_a_wrong_form_is_said_in_a_sentence(form: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        forms.settings_of(**form)


def test_an_unknown_study_is_told_by_the_field_of_its_own_form() -> None:
    with pytest.raises(InputError, match=r"^study = pokket: no study of that name; known: alpaca-mini, .*pocket"):
        shipped.path_of("pokket", "study", "study")


@pytest.mark.parametrize("config", ["tiny", "settings.yaml", "some/settings"])
def test_settings_to_begin_with_come_with_montessori_or_are_a_path_of_the_worker(config: str) -> None:
    _check(DeployOptions(config=config))


def test_unknown_settings_to_begin_with_are_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"^--config = nosuch: no settings of that name; known: alpaca-mini, .*tiny"):
        _check(DeployOptions(config="nosuch"))


@pytest.mark.parametrize(("kind", "memory"), [("process", "16g"), ("process", "16Gi"), ("docker", "16g")])
def test_a_size_as_the_type_has_it_is_accepted(kind: Kind, memory: str) -> None:
    _check(DeployOptions(kind=kind, memory=memory))


@pytest.mark.parametrize(
    ("kind", "memory", "example"),
    [
        ("process", "lots", "16g or 16Gi"),
        ("docker", "16Gi", "16g"),
        ("kubernetes", "16g", "16Gi"),
    ],
)
def test_what_is_no_size_is_refused_whatever_the_type(kind: Kind, memory: str, example: str) -> None:
    with pytest.raises(InputError, match=f"^--memory {memory}: expected a size, for example {example}$"):
        _check(DeployOptions(kind=kind, memory=memory))


@pytest.mark.parametrize("flow", [montessori, teacher_refresh, evaluate, study], ids=lambda flow: flow.name)
def test_every_field_of_a_form_has_help(flow: Any) -> None:
    from prefect.utilities.callables import parameter_schema

    for name, field in parameter_schema(flow).properties.items():
        assert field.get("description"), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_accepts_the_template(kind: str) -> None:
    WorkPoolCreate(name="montessori", type=kind, base_job_template=template(kind))
    spoilt = template(kind)
    spoilt["job_configuration"]["env"] = {"KEY": "{{ $KEY }}"}
    with pytest.raises(ValidationError, match="KEY"):
        WorkPoolCreate(name="montessori", type=kind, base_job_template=spoilt)


def test_templates_are_where_the_command_looks_for_them() -> None:
    assert {path.stem for path in Path(TEMPLATES).glob("*.json")} == set(KINDS)
