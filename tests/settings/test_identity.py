"""Which settings a fingerprint covers, and what each setting says of itself."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from montessori.settings import files, shipped
from montessori.settings.base import block_class, identity
from montessori.settings.run import Settings
from montessori.settings.score import Scoring
from montessori.settings.study import Study
from montessori.settings.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
RUNS = [*sorted(shipped.CONFIGS.glob("*.yaml")), ROOT / "tests/end_to_end/micro.yaml"]
STUDIES = sorted((shipped.CONFIGS / "studies").glob("*.yaml"))
SUITES = sorted((shipped.CONFIGS / "suites").glob("*.yaml"))
JUDGED: dict[str, Any] = {"judge": {"engine": "openai", "openai": {"model": "m"}}}

# Any change here gives every run or evaluation in an existing store another fingerprint.
ENDPOINT = {"vllm": True, "max_failed": True, "openai": {"max_concurrency", "timeout_s", "price"}}
OF_A_RUN: Any = {
    **dict.fromkeys(("store", "compute", "budget", "refresh"), True),
    **dict.fromkeys(("generation", "rating"), ENDPOINT),
}
OF_A_SUITE: Any = {**dict.fromkeys(("store", "compute", "budget", "vllm"), True), "judge": ENDPOINT}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_is_known_by_all_settings_but_these(path):
    settings = files.load(path)
    assert identity(settings) == settings.model_dump(mode="json", exclude=OF_A_RUN)


@pytest.mark.parametrize("judged", [{}, JUDGED], ids=["alone", "judged"])
@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_an_evaluation_is_known_by_all_settings_but_these(path, judged):
    suite = files.block(Suite, files.read(path) | judged, str(path))
    assert identity(suite) == suite.model_dump(mode="json", exclude=OF_A_SUITE)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_known_by_all_settings_but_these(path):
    study = files.block(Study, files.read(path), str(path))
    assert identity(study) == study.model_dump(mode="json", exclude={"store", "compute", "budget"})


def test_settings_that_change_no_artifact_leave_the_identity_as_it_is():
    tree = files.read(shipped.CONFIGS / "tiny.yaml")
    price = {"input": 1, "output": 2}
    moved = files.with_overrides(
        tree,
        [
            "store=elsewhere",
            "compute.at_once=7",
            "budget.usd=3",
            "refresh.seeds=1",
            *files.format_overrides({"generation.openai.price": price, "rating.vllm.python": "python"}),
        ],
    )
    assert identity(files.parse(moved, "moved")) == identity(files.parse(tree, "tiny"))
    other = files.with_overrides(tree, ["dpo.beta=0.2"])
    assert identity(files.parse(other, "other")) != identity(files.parse(tree, "tiny"))


def blocks(kind: type[BaseModel]) -> set[type[BaseModel]]:
    """All classes of settings in and below one."""
    below = {block for field in kind.model_fields.values() if (block := block_class(field.annotation))}
    return {kind}.union(*(blocks(block) for block in below))


@pytest.mark.parametrize("kind", [Settings, Suite, Study, Scoring])
def test_every_setting_has_a_description(kind):
    bare = [
        f"{block.__name__}.{name}"
        for block in blocks(kind)
        for name, field in block.model_fields.items()
        if not (field.description or "").endswith(".")
    ]
    assert bare == []
