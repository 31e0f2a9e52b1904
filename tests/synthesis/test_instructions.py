"""Rounds of few-shot prompts, with a teacher that says what the test has written for it."""

import re
from collections.abc import Callable

import pytest

from montessori.errors import InputError, StageError
from montessori.settings.generation import Instructions
from montessori.synthesis import instructions
from montessori.synthesis.engines import Answer, Generation
from montessori.synthesis.instructions import SAMPLES_PER_REASON, generate_instructions, stable_seed
from montessori.synthesis.prompts import few_shot, teacher_output

SEEDS = [
    {"id": f"seed-{n}", "instruction": f"Seed {n}: use {'abcdefghijklmnop'[n]}{n} in a sentence."} for n in range(16)
]
SETTINGS = Instructions(prompts_per_round=3, samples_per_prompt=2)


class ScriptedTeacher:
    """Answers sample `s` of prompt `p` of round `r` with `script(r, p, s)` and remembers what it was asked."""

    def __init__(self, script: Callable[[int, int, int], str]):
        self.script = script
        self.asked: list[list[str]] = []  # by round: the prompts
        self.seeds: list[list[int]] = []

    def __call__(self, prompts, sampling, samples, seeds):
        self.asked.append([prompt[0]["content"] for prompt in prompts])
        self.seeds.append(list(seeds))
        turn = len(self.asked) - 1
        return [
            Answer([Generation(self.script(turn, p, s), "stop", 10 + s) for s in range(samples)], 100 + p)
            for p in range(len(prompts))
        ]


def new(turn: int, prompt: int, sample: int) -> str:
    name = f"{turn}x{prompt}x{sample}"
    return teacher_output("Why.", f"Task {name}: explain {name}a and {name}b.")


def shots(prompt: str) -> list[str]:
    return re.findall("<instruction>(.+?)</instruction>", prompt.split("Examples:\n")[1])


def test_the_target_is_reached_exactly_and_in_order():
    teacher = ScriptedTeacher(new)
    written = generate_instructions(teacher, SEEDS, SETTINGS, target=8, seed=0)
    assert written.rounds == [(3, 6, 6), (2, 4, 2)]
    assert [row["instruction"].split(":")[0] for row in written.rows] == [
        f"Task {name}" for name in ("0x0x0", "0x0x1", "0x1x0", "0x1x1", "0x2x0", "0x2x1", "1x0x0", "1x0x1")
    ]
    assert len({row["id"] for row in written.rows}) == 8
    assert written.rejected.total() == 0


def test_the_samples_of_a_prompt_share_its_id_and_nothing_else_does():
    written = generate_instructions(ScriptedTeacher(new), SEEDS, SETTINGS, target=12, seed=0)
    ids = [row["prompt_id"] for row in written.rows]
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 6


def test_a_row_keeps_the_prompt_and_the_raw_output_and_where_its_shots_came_from():
    teacher = ScriptedTeacher(new)
    (row,) = generate_instructions(teacher, SEEDS, SETTINGS, target=1, seed=0).rows
    shown = shots(teacher.asked[0][0])
    assert row["prompt"] == few_shot(shown)
    assert row["prompt"][0]["content"] == teacher.asked[0][0]
    assert row["raw"] == new(0, 0, 0)
    assert (row["tokens"], row["finish_reason"], row["prompt_tokens"]) == (10, "stop", 100)
    assert (row["round"], row["sample"], row["seed"]) == (0, 0, teacher.seeds[0][0])
    texts = {seed["id"]: seed["instruction"] for seed in SEEDS}
    assert sorted(texts[id] for id in row["seed_ids"]) == sorted(shown)


def test_eight_seeds_are_shown_first_then_six_with_two_instructions_of_earlier_rounds():
    teacher = ScriptedTeacher(new)
    written = generate_instructions(teacher, SEEDS, SETTINGS, target=18, seed=0)
    seeds = {seed["instruction"] for seed in SEEDS}
    for turn, prompts in enumerate(teacher.asked):
        earlier = {row["instruction"] for row in written.rows[: 6 * turn]}
        for prompt in prompts:
            shown = shots(prompt)
            assert len(shown) == len(set(shown)) == 8
            generated = set(shown) - seeds
            assert len(generated) == (2 if turn else 0)
            assert generated <= earlier


def test_until_two_instructions_are_there_only_seeds_are_shown():
    def one_a_round(turn, prompt, sample):
        return new(turn, prompt, sample) if (prompt, sample) == (0, 0) else "no tag"

    teacher = ScriptedTeacher(one_a_round)
    generate_instructions(teacher, SEEDS, SETTINGS, target=3, seed=0)
    seeds = {seed["instruction"] for seed in SEEDS}
    generated = [{len(set(shots(prompt)) - seeds) for prompt in prompts} for prompts in teacher.asked]
    assert generated == [{0}, {0}, {2}]


def test_generated_shots_do_not_always_stand_last():
    teacher = ScriptedTeacher(new)
    generate_instructions(teacher, SEEDS, SETTINGS.model_copy(update={"prompts_per_round": 20}), target=80, seed=0)
    places = {i for prompt in teacher.asked[1] for i, shot in enumerate(shots(prompt)) if shot.startswith("Task")}
    assert places == set(range(8))


def test_the_same_seed_asks_the_same_and_another_seed_asks_otherwise():
    def run(seed: int) -> ScriptedTeacher:
        teacher = ScriptedTeacher(new)
        generate_instructions(teacher, SEEDS, SETTINGS, target=12, seed=seed)
        return teacher

    one, again, other = run(1), run(1), run(2)
    assert (one.asked, one.seeds) == (again.asked, again.seeds)
    assert one.asked[0] != other.asked[0]
    assert set(one.seeds[0]).isdisjoint(other.seeds[0])
    everything = [seed for turn in one.seeds for seed in turn]
    assert len(set(everything)) == len(everything)


def test_a_repeated_seed_of_its_own_prompt_is_a_near_duplicate():
    seen: list[str] = []

    class Parrot(ScriptedTeacher):
        def __call__(self, prompts, sampling, samples, seeds):
            seen.append(shots(prompts[0][0]["content"])[0])
            self.script = lambda turn, prompt, sample: (
                teacher_output("Why.", seen[0]) if (prompt, sample) == (0, 0) else new(turn, prompt, sample)
            )
            return super().__call__(prompts, sampling, samples, seeds)

    written = generate_instructions(Parrot(new), SEEDS, SETTINGS, target=5, seed=0)
    assert written.rejected == {"near-duplicate": 1}
    assert seen[0] not in {row["instruction"] for row in written.rows}


def test_each_rejection_is_counted_with_a_few_samples():
    bad = {
        0: "no tag at all",
        1: teacher_output("Why.", "Hm."),
        2: teacher_output("Why.", "Draw a cat with a hat."),
        3: teacher_output("Why.", "Task 0x0x0: explain 0x0x0a and 0x0x0b!"),
    }

    def script(turn, prompt, sample):
        return new(turn, prompt, sample) if sample == 0 else bad[prompt % 4]

    settings = SETTINGS.model_copy(update={"prompts_per_round": 32})
    written = generate_instructions(ScriptedTeacher(script), SEEDS, settings, target=32, seed=0)
    assert written.rejected == {
        "no tagged instruction": 8,
        "too short": 8,
        "needs more than text": 8,
        "near-duplicate": 7,  # the last prompt's second sample came after the target was reached
    }
    assert written.samples.keys() == written.rejected.keys()
    assert all(len(kept) == SAMPLES_PER_REASON for kept in written.samples.values())
    assert written.samples["too short"][0] == bad[1]


def test_a_teacher_that_only_repeats_itself_is_an_error_that_says_so():
    teacher = ScriptedTeacher(lambda *_: teacher_output("Why.", "Explain the same thing again."))
    with pytest.raises(StageError) as error:
        generate_instructions(teacher, SEEDS, SETTINGS, target=4, seed=0)
    assert len(teacher.asked) == 4  # the first round brought one, the three after it nothing
    message = str(error.value)
    assert message.startswith("only 1 of 4 instructions after 4 rounds, and of the last 18 texts 0 were kept")
    assert "Rejected: 21 near-duplicate." in message
    assert "instructions.max_rouge_l" in message


def test_a_bad_round_among_good_ones_does_not_stop_it():
    def every_third_round(turn, prompt, sample):
        return new(turn, prompt, sample) if turn % 3 == 0 else "no tag"

    teacher = ScriptedTeacher(every_third_round)
    assert len(generate_instructions(teacher, SEEDS, SETTINGS, target=16, seed=0).rows) == 16


def test_the_small_rounds_at_the_end_are_too_few_texts_to_judge_by():
    """After 48 of 49, a round of one prompt and two full ones bring nothing; the next one does."""

    def script(turn, prompt, sample):
        return new(turn, prompt, sample) if turn in (0, 1, 5) else "no tag"

    settings = SETTINGS.model_copy(update={"prompts_per_round": 12})
    teacher = ScriptedTeacher(script)
    assert len(generate_instructions(teacher, SEEDS, settings, target=49, seed=0).rows) == 49
    assert [len(prompts) for prompts in teacher.asked] == [12, 12, 1, 12, 12, 12]


def test_a_slow_yield_stops_it_only_below_the_setting():
    """One text in twelve is new."""

    def script(turn, prompt, sample):
        return new(turn, prompt, sample) if (prompt, sample) == (0, 0) else "no tag"

    settings = SETTINGS.model_copy(update={"prompts_per_round": 6, "min_yield": 1 / 13})
    assert len(generate_instructions(ScriptedTeacher(script), SEEDS, settings, target=30, seed=0).rows) == 30
    with pytest.raises(StageError, match="of the last 36 texts 3 were kept"):
        generate_instructions(
            ScriptedTeacher(script), SEEDS, settings.model_copy(update={"min_yield": 1 / 11}), target=30, seed=0
        )


def test_a_round_asks_for_no_more_than_the_last_yield_says_is_needed():
    """Half of what the teacher writes is new: after 40 prompts brought 40 texts, 30 more take 30 prompts and a few."""

    def half(turn, prompt, sample):
        return new(turn, prompt, sample) if sample else "no tag"

    teacher = ScriptedTeacher(half)
    generate_instructions(teacher, SEEDS, SETTINGS.model_copy(update={"prompts_per_round": 40}), target=70, seed=0)
    assert [len(prompts) for prompts in teacher.asked] == [35, 37]


def test_what_the_endpoint_refused_is_rejected_by_that_name():
    def ask(prompts, sampling, samples, seeds):
        texts = [Generation("", "content_filter", 0), Generation("", "too_long", 0)]
        return [Answer([Generation(new(len(prompts), p, 0), "stop", 9), *texts], 5) for p in range(len(prompts))]

    written = generate_instructions(ask, SEEDS, SETTINGS.model_copy(update={"samples_per_prompt": 3}), target=2, seed=0)
    assert written.rejected == {"refused by a content filter": 1, "prompt too long": 1}


def test_too_few_seeds_for_a_prompt_are_wrong_input():
    with pytest.raises(InputError, match="seeds: 7 rows, but a prompt shows 8"):
        generate_instructions(ScriptedTeacher(new), SEEDS[:7], SETTINGS, target=1, seed=0)


def test_without_generated_shots_only_seeds_are_shown():
    settings = SETTINGS.model_copy(update={"seed_shots": 3, "generated_shots": 0})
    teacher = ScriptedTeacher(new)
    generate_instructions(teacher, SEEDS, settings, target=12, seed=0)
    assert {len(shots(prompt)) for prompts in teacher.asked for prompt in prompts} == {3}
    assert not any("Task" in shot for prompts in teacher.asked for prompt in prompts for shot in shots(prompt))


def test_seeds_for_sampling_are_the_same_on_every_machine():
    assert stable_seed("0-0-0") == 265480464751014
    assert len({stable_seed(f"0-{r}-{p}") for r in range(40) for p in range(256)}) == 40 * 256
    assert instructions.stable_seed("x") < 2**48
