"""Which system of a run is meant, and what of addresses and settings may be told."""

from typing import Any

import pytest

from montessori import publishing
from montessori.errors import InputError
from montessori.reporting import public
from montessori.settings.run import Settings

DIGEST = "9c1e" * 16


def run(iterations: int) -> dict[str, Any]:
    """The manifest of a run, as far as it says what there is."""
    inputs: dict[str, list[str]] = {"No fine-tuning:student": ["scratch-student/0"], "No fine-tuning:pairs": []}
    for name in ["Self-Instruct", *(f"Montessori iteration {n + 1}" for n in range(iterations))]:
        inputs |= {f"{name}:student": ["student/0"], f"{name}:pairs": ["responses/0"]}
    inputs |= {f"{n + 1}:teacher": ["teacher/0"] for n in range(iterations)}
    systems: list[dict[str, Any]] = [{"name": name, "system": name} for name in ("No fine-tuning", "Self-Instruct")]
    systems += [
        {"name": f"Montessori iteration {n}", "system": "Montessori", "iteration": n} for n in range(1, iterations + 1)
    ]
    return {"address": "runs/tiny-0", "request": {"inputs": inputs, "settings": {"systems": systems}}}


def test_the_last_system_is_meant_where_none_is_named():
    assert publishing.choose_system(run(0), "data", None) == "Self-Instruct"
    for what in ("data", "teacher", "student"):
        assert publishing.choose_system(run(10), what, None) == "Montessori iteration 10"
    assert publishing.choose_system(run(2), "student", "Self-Instruct") == "Self-Instruct"


def test_a_run_without_iterations_has_no_tuned_teacher():
    with pytest.raises(InputError, match="--what teacher: the run has no tuned teacher, since it has no iterations"):
        publishing.choose_system(run(0), "teacher", None)


def test_a_run_of_an_older_version_is_told_to_be_run_again():
    old = run(1)
    del old["request"]["settings"]["systems"]
    with pytest.raises(InputError, match=r"^RUN = tiny-0: version 0\.1 made its report; run its run\.yaml again"):
        publishing.choose_system(old, "data", None)


def test_a_base_model_is_not_a_system_of_the_run():
    with pytest.raises(InputError, match=r"the run has no student of such a system; it has: Self-Instruct$"):
        publishing.choose_system(run(0), "student", "No fine-tuning")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (f"file:/home/carol/my rows/seeds.jsonl#{DIGEST}", f"file:seeds.jsonl#{DIGEST}"),
        (f"file#{DIGEST}", f"file#{DIGEST}"),
        ("hub:vicgalle/alpaca-gpt4@main", "hub:vicgalle/alpaca-gpt4@main"),
        ("teacher/3ec05216624c1d5ba3ea", "teacher/3ec05216624c1d5ba3ea"),
        ("pocket", "pocket"),
        ("api:gpt-4o@https://api.openai.com/v1", "api:gpt-4o@api.openai.com"),
        ("api:meta-llama/Llama-3@https://api.together.xyz/v1?key=1", "api:meta-llama/Llama-3@api.together.xyz"),
        ("api:llama@http://gpu7.intranet:8000/v1", "api:llama"),
        ("api:llama@https://api.openai.com.evil.example/v1", "api:llama"),
        ("api:/srv/models/llama/@http://127.0.0.1:8000/v1", "api:llama"),
        ("api:C:\\models\\llama@http://127.0.0.1:8000/v1", "api:llama"),
    ],
)
def test_an_address_tells_what_and_not_where(address: str, told: str):
    assert public.address(address) == told


def test_settings_keep_all_but_where_things_are():
    settings = Settings.model_validate(
        {
            "name": "x",
            "seeds": {"source": "/home/carol/seeds.jsonl", "limit": 9},
            "reference": "user/name@v1",
            "teacher": {"source": "/srv/llama"},
            "student": {"source": "/srv/small"},
            "generation": {"openai": {"model": "/srv/llama", "base_url": "http://gpu7:8000/v1"}},
            "responses": {"sampling": {"stop": ["/end"]}},
        }
    ).model_dump(mode="json")
    told = public.settings(settings)
    assert told["seeds"] == {**settings["seeds"], "source": "seeds.jsonl"}
    assert (told["teacher"]["source"], told["student"]["source"]) == ("llama", "small")
    assert told["generation"]["openai"]["base_url"] == public.NOT_TOLD
    assert told["generation"]["openai"]["model"] == "llama"
    changed = {"seeds", "teacher", "student", "generation"}
    assert {key: value for key, value in told.items() if key not in changed} == {
        key: value for key, value in settings.items() if key not in changed
    }
    assert Settings.model_validate(told)
    assert settings["seeds"]["source"] == "/home/carol/seeds.jsonl"  # not changed itself


@pytest.mark.parametrize(("rows", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K")])
def test_sizes_are_the_hubs(rows: int, size: str):
    assert publishing.card.size(rows) == size
