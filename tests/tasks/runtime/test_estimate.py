"""What a run will take: by what like stages took, and where there are none by the lengths of the seeds."""

from pathlib import Path
from typing import Any

import pytest

from flows.commands import cli
from flows.methods.montessori_instruct import request_base
from flows.requests.builder import NOBODY
from flows.requests.run import plan
from flows.requests.steps import Steps
from montessori.artifacts import Folder, Request, Store
from montessori.data import sources
from montessori.data.chat import prompt_ids
from montessori.pocket import scratch, world
from montessori.settings import files
from montessori.settings.run import Settings
from montessori.synthesis.instructions import build_prompt
from montessori.synthesis.lengths import Lengths, expected_lengths
from tasks.runtime import estimate as estimating
from tasks.runtime.estimate import Line, estimate, estimate_all, total

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "montessori/configs/tiny.yaml"


def settings_of(*changes: str, config: Path = TINY) -> Settings:
    small = ["teacher.scratch.steps=50"] if config == TINY else []  # the vocabulary is made of what it would learn from
    return files.load(config, ["generation.engine=transformers", *small, *changes])


def lines_of(settings: Settings, store: Store, before: str | None = None) -> dict[str, Line]:
    lines, _ = estimate(settings, plan(settings)[0].requests, store, before)
    return {line.task: line for line in lines}


def make(store: Store, request: Request, seconds: float, **summary: Any) -> None:
    """An artifact of `request`, of 1,000 bytes and its manifest's own."""
    with store.staging() as folder:
        (folder / "rows").write_bytes(b"x" * 1000)
        about = {"request": request.model_dump(mode="json"), "summary": summary, "seconds": seconds}
        store.commit(request.address, folder, about)


def made_at_other_seeds(store: Store, stage: str, *made: dict[str, Any], changes: tuple[str, ...] = ()) -> None:
    for seed, one in enumerate(made, 1):
        requests = plan(settings_of(f"seed={seed}", *changes))[0].requests.values()
        make(store, next(r for r in requests if r.stage == stage), **one)


def usage(prompts: int, read: int, written: int) -> dict[str, float]:
    return {"prompts": prompts, "prompt_tokens": read, "completion_tokens": written, "seconds": 1.0}


def test_like_stages_of_other_runs_give_the_rates(tmp_path: Path):
    store = Folder(tmp_path)
    first = {"seconds": 10.0, "instructions": 100, "usage": usage(50, 5_000, 2_000)}
    second = {"seconds": 30.0, "instructions": 300, "usage": usage(150, 15_000, 6_000)}
    made_at_other_seeds(store, "instructions", first, second)
    line = lines_of(settings_of(), store)["instructions"]
    wanted = 512 + 2 * (896 + 512)
    assert (line.prompts, line.tokens_in, line.tokens_out) == pytest.approx((wanted / 2, wanted * 50, wanted * 20))
    assert line.hours == pytest.approx(wanted / 10 / 3600)
    assert line.basis == {"measured"}


def test_a_stage_with_other_settings_is_no_measure(tmp_path: Path):
    store = Folder(tmp_path)
    made = {"seconds": 10.0, "instructions": 100, "usage": usage(50, 5_000, 2_000)}
    made_at_other_seeds(store, "instructions", made, changes=("instructions.seed_shots=2",))
    assert lines_of(settings_of(), store)["instructions"].basis == {"assumed"}


def test_what_the_store_has_is_counted_as_it_was(tmp_path: Path):
    store, settings = Folder(tmp_path), settings_of()
    request = next(r for r in plan(settings)[0].requests.values() if r.stage == "instructions")
    make(store, request, 10.0, instructions=512, usage=usage(10, 1, 1))
    line = lines_of(settings, store)["instructions"]
    assert line.basis == {"made", "assumed"}  # the run's own do not give the rates
    afresh = lines_of(settings, store, before="2999-01-01")["instructions"]
    assert afresh.basis == {"assumed"}
    assert line.prompts == pytest.approx(10 + afresh.prompts * (2 * 1408) / (512 + 2 * 1408), abs=2)


def test_what_was_made_after_the_run_began_gives_no_rates_for_the_comparison(tmp_path: Path):
    store = Folder(tmp_path)
    made_at_other_seeds(store, "warm-up", {"seconds": 10.0, "encoded": 100, "dropped": 0})
    assert lines_of(settings_of(), store, before="2000-01-01")["warm-up"].basis == {"assumed"}
    assert lines_of(settings_of(), store, before="2999-01-01")["warm-up"].basis == {"measured"}


def test_prompts_are_expected_to_be_as_long_as_those_that_the_run_will_ask():
    settings = settings_of(config=ROOT / "tests/end_to_end/micro.yaml")
    assert settings.teacher and settings.teacher.scratch
    shape = settings.teacher.scratch
    conversations = world.teacher_conversations(scratch.conversation_count(shape), settings.seed)
    _, tokenizer = scratch.build(conversations, shape, settings.seed)  # as the run builds it
    seeds = world.seeds(settings.pocket.seeds, settings.seed)
    prompts = [build_prompt(f"{n}", seeds, [], settings.instructions)["messages"] for n in range(300)]
    lengths = [len(ids) for ids in prompt_ids(tokenizer, prompts)]
    assert expected_lengths(settings).prompt == pytest.approx(sum(lengths) / len(lengths), rel=0.05)


def test_cells_that_differ_in_what_no_length_depends_on_share_the_reading_of_the_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[Settings] = []

    def reading(settings: Settings) -> Lengths:
        read.append(settings)
        return Lengths(prompt=100, text=20, instruction=10, response=10)

    monkeypatch.setattr(estimating, "expected_lengths", reading)
    changes = ["dpo.beta=0.2", "method=llm2llm", "seed=1", "instructions.seed_shots=2"]
    runs = [settings_of(), *(settings_of(change) for change in changes)]
    estimate_all([(settings, plan(settings)[0].requests) for settings in runs], Folder(tmp_path))
    assert [(one.seed, one.instructions.seed_shots) for one in read] == [(0, 3), (1, 3), (0, 2)]


def hours_of(stage: str, *changes: str) -> float:
    hours = lines_of(settings_of("iterations=1", *changes), Folder("nowhere"))[stage].hours
    assert hours is not None
    return hours


def hours_of_dpo(*changes: str) -> float:
    return hours_of("teacher", *changes)


def test_as_many_answers_are_scored_as_instructions_whatever_the_training_set():
    settings = ("influence.after=false", "training_size=64")
    assert hours_of("influence", "update=responses", *settings) == hours_of("influence", *settings)
    assert hours_of("influence", "training_size=640") == pytest.approx(2 * hours_of("influence", *settings))


def test_of_the_best_against_the_worst_there_is_one_pair_a_prompt():
    half_a_point = hours_of_dpo()
    rewarded = hours_of_dpo("method=self-reward", "rating.engine=rule", "responses.samples=5")
    assert rewarded / half_a_point == pytest.approx((1 / 5) / 0.5)
    assert hours_of_dpo("preferences.split=best_worst") / half_a_point == pytest.approx((1 / 4) / 0.5)
    assert hours_of_dpo("update=responses") == pytest.approx(half_a_point)  # all pairs of a prompt, as of instructions


def test_a_teacher_that_is_stopped_takes_its_share_of_the_hours():
    assert hours_of_dpo("dpo.stop=0.25") == pytest.approx(hours_of_dpo() / 4)


def test_a_student_on_its_way_learns_from_a_share_of_its_training_set(tmp_path: Path):
    settings = settings_of("iterations=0", "training_size=300")
    steps = Steps(settings, sources.addresses(settings))
    start = request_base(steps)
    written = steps.instructions(start.writer, start.seeds, 300, purpose="training", who=NOBODY)
    pairs = steps.responses(start.writer, written, NOBODY)
    steps.train_student(start.student, pairs, NOBODY)
    steps.checkpoint(start.student, pairs, 0.5, NOBODY)
    lines = {line.task: line for line in estimate(settings, steps.requests, Folder(tmp_path))[0]}
    whole, half = lines["student"].hours, lines["warm-up"].hours
    assert whole and half == pytest.approx(whole / 2)


def test_what_is_half_written_or_spoilt_gives_no_rates(tmp_path: Path):
    for place in (".staging/abc", "warm-up/0123"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "manifest.json").write_text('{"address": "warm-up/0')
    assert lines_of(settings_of(), Folder(tmp_path))["warm-up"].basis == {"assumed"}


def test_an_endpoint_has_its_price(tmp_path: Path):
    endpoint = ["generation.engine=openai", "generation.openai.model=gpt-4o", "iterations=0"]
    lines = lines_of(settings_of(*endpoint), Folder(tmp_path))
    whole = total(lines.values())
    assert whole.usd == pytest.approx((whole.tokens_in * 2.5 + whole.tokens_out * 10) / 1e6)
    assert lines["student"].usd is None
    own = lines_of(settings_of(*endpoint, "generation.openai.price={input: 0, output: 1}"), Folder(tmp_path))
    assert total(own.values()).usd == pytest.approx(whole.tokens_out / 1e6)
    unknown = lines_of(settings_of(*endpoint, "generation.openai.model=mine"), Folder(tmp_path))
    assert total(unknown.values()).usd is None


@pytest.mark.parametrize("config", ["tiny", "tinyllama-1.1b", "llama3-8b"])
def test_every_settings_file_can_be_estimated_without_a_network(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Hours of the paper's runs are plausible: the size of a model is read off its name."""
    assert cli.main(["estimate", f"{ROOT}/montessori/configs/{config}.yaml", "--store", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "instructions" in out
    assert "?" not in out
    assert not list(tmp_path.iterdir())


def test_a_budget_that_will_not_do_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["estimate", str(TINY), "--store", str(tmp_path), "--set", "budget.tokens=1000"])
    assert "budget.tokens = 1,000 is too low" in capsys.readouterr().out


def test_wrong_settings_are_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["estimate", str(TINY), "--set", "budget.euro=1"]) == 2
    assert "unknown setting budget.euro" in capsys.readouterr().err
