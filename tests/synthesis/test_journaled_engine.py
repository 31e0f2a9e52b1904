"""Prompts to an engine through its journal: nothing is lost or asked for twice, no more is spent than allowed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from montessori import progress
from montessori.artifacts import Folder
from montessori.budget import Usage
from montessori.data.chat import user
from montessori.errors import BudgetReached
from montessori.settings.engines import Price
from montessori.settings.generation import Instructions, Sampling
from montessori.synthesis.engines import Answer, Generation, no_limit
from montessori.synthesis.journaled_engine import JournaledEngine

PROMPTS = [user(f"Question {n}") for n in range(10)]
SEEDS = list(range(10))
ADDRESS = "responses/0123"


class Died(Exception):
    """The engine's end in the middle of its work."""


class Teacher:
    """Answers prompt after prompt, the last first, and dies before the answer number `dies_at`."""

    def __init__(self, dies_at: int | None = None):
        self.asked: list[str] = []
        self.dies_at, self.loaded = dies_at, 0

    def load(self) -> "Teacher":
        self.loaded += 1
        return self

    def generate(self, prompts, sampling, samples, seeds, *, done=(), may_start=no_limit):
        for i in reversed(range(len(prompts))):
            if i in done:
                continue
            if not may_start(0):
                return
            if len(self.asked) == self.dies_at:
                raise Died
            text = prompts[i][0]["content"]
            self.asked.append(text)
            texts = [Generation(f"{text} of seed {seeds[i]}, {n}", "stop", 7) for n in range(samples)]
            yield i, Answer(texts, prompt_tokens=20, cut=i == 3)


def ask(engine: JournaledEngine, prompts=PROMPTS, seeds=SEEDS) -> list[Answer]:
    return engine.generate(prompts, Sampling(), 2, seeds)


def test_answers_come_in_the_order_of_the_prompts(tmp_path: Path):
    with Folder(tmp_path).journal(ADDRESS) as journal:
        answers = ask(JournaledEngine(Teacher().load, journal))
    assert [answer.generations[1].text for answer in answers] == [f"Question {n} of seed {n}, 1" for n in range(10)]
    assert [answer.cut for answer in answers] == [n == 3 for n in range(10)]


def test_after_a_death_only_what_is_missing_is_asked_for(tmp_path: Path):
    whole, first, second = Teacher(), Teacher(dies_at=4), Teacher()
    with Folder(tmp_path / "whole").journal(ADDRESS) as journal:
        uninterrupted = JournaledEngine(whole.load, journal)
        expected = ask(uninterrupted)
    store = Folder(tmp_path)
    with store.journal(ADDRESS) as journal, pytest.raises(Died):
        ask(JournaledEngine(first.load, journal))
    with store.journal(ADDRESS) as journal:
        resumed = JournaledEngine(second.load, journal)
        assert ask(resumed) == expected
    assert first.asked + second.asked == whole.asked
    counted = ("prompts", "prompt_tokens", "completion_tokens")
    assert (
        [resumed.usage[name] for name in counted] == [uninterrupted.usage[name] for name in counted] == [10, 200, 140]
    )


def test_an_engine_that_has_nothing_to_do_is_not_loaded(tmp_path: Path):
    teacher = Teacher()
    with Folder(tmp_path).journal(ADDRESS) as journal:
        expected = ask(JournaledEngine(teacher.load, journal))
        assert ask(JournaledEngine(teacher.load, journal)) == expected
    assert teacher.loaded == 1


def test_another_seed_or_another_prompt_is_another_question(tmp_path: Path):
    teacher = Teacher()
    with Folder(tmp_path).journal(ADDRESS) as journal:
        engine = JournaledEngine(teacher.load, journal)
        ask(engine)
        ask(engine, seeds=[*range(9), 99])
        ask(engine, prompts=[*PROMPTS[:9], user("Something else")])
    assert teacher.asked[10:] == ["Question 9", "Something else"]


def test_a_torn_line_is_asked_for_again(tmp_path: Path):
    store, first, second = Folder(tmp_path), Teacher(dies_at=4), Teacher()
    with store.journal(ADDRESS) as journal, pytest.raises(Died):
        ask(JournaledEngine(first.load, journal))
    (lines,) = (tmp_path / ".journals").glob("*/answers.jsonl")
    lines.write_bytes(lines.read_bytes()[:-10])
    with store.journal(ADDRESS) as journal:
        assert len(ask(JournaledEngine(second.load, journal))) == 10
        assert len(journal.entries()) == 10
    assert second.asked[0] == first.asked[3]
    assert len(second.asked) == 7


def test_progress_counts_what_was_there_before_too(tmp_path: Path):
    store, heard = Folder(tmp_path), []
    with store.journal(ADDRESS) as journal, pytest.raises(Died):
        ask(JournaledEngine(Teacher(dies_at=4).load, journal))
    with store.journal(ADDRESS) as journal, progress.send_to(lambda *report: heard.append(report[:3])):
        ask(JournaledEngine(Teacher().load, journal))
    assert heard == [(n, 10, "prompts") for n in range(4, 11)]


@pytest.mark.parametrize(
    ("limits", "others", "answered"),
    [
        ({"tokens": 34 * 4}, Usage(), 4),
        ({"tokens": 34 * 4 - 1}, Usage(), 4),
        ({"tokens": 34 * 4 + 1}, Usage(), 5),
        ({"tokens": 34 * 4}, Usage(tokens=34 * 3), 1),
        ({"usd": 7e-4}, Usage(), 5),
        ({"usd": 7e-4, "tokens": 34}, Usage(), 1),
        ({"hours": 1.0}, Usage(hours=1.0), 0),
    ],
)
def test_a_budget_stops_it_and_what_came_is_kept(tmp_path: Path, limits, others, answered):
    """An answer is 20 tokens read and 14 written: 1.44e-4 dollars at 0.2 and 10 dollars for a million."""
    teacher, price = Teacher(), Price(input=0.2, output=10)
    with Folder(tmp_path).journal(ADDRESS) as journal:
        with pytest.raises(BudgetReached, match=r"budget\.\w+ = .* is reached .* run the same command to go on"):
            ask(JournaledEngine(teacher.load, journal, price=price, limits=limits, others=lambda: others))
        assert len(journal.entries()) == len(teacher.asked) == answered
        ask(JournaledEngine(teacher.load, journal, price=price, limits={"tokens": 10**6}, others=lambda: others))
    assert len(teacher.asked) == len(set(teacher.asked)) == 10


def test_prompts_under_way_count_with_what_one_has_cost_so_far(tmp_path: Path):
    """Before the first answer a prompt is taken to cost 2 times 1,024 tokens, then 34: with 3 under way, until 136."""
    seen: list[tuple[int, bool]] = []

    class Watched(Teacher):
        def generate(self, prompts, sampling, samples, seeds, *, done=(), may_start=no_limit):
            for i, answer in super().generate(prompts, sampling, samples, seeds, done=done):
                seen.append((len(self.asked) - 1, may_start(3)))
                yield i, answer

    with Folder(tmp_path).journal(ADDRESS) as journal:
        ask(JournaledEngine(Watched().load, journal, limits={"tokens": 34 * 7}))
    assert [may for _, may in seen] == [False] + [True] * 3 + [False] * 6


def test_what_may_not_be_begun_says_which_limit_and_by_how_much(tmp_path: Path):
    class Batches(Teacher):
        def generate(self, prompts, sampling, samples, seeds, *, done=(), may_start=no_limit):
            if may_start(9):
                yield from super().generate(prompts, sampling, samples, seeds, done=done)

    with (
        Folder(tmp_path).journal(ADDRESS) as journal,
        pytest.raises(BudgetReached, match=r"budget.tokens = 1,000 does not reach for more \(0 used, up to 18,432 by"),
    ):
        ask(JournaledEngine(Batches().load, journal, limits={"tokens": 1000}))


def test_what_was_used_is_known_before_and_after_the_artifact_is_made(tmp_path: Path):
    store = Folder(tmp_path)
    assert store.usage(ADDRESS) == {}
    with store.journal(ADDRESS) as journal:
        engine = JournaledEngine(Teacher().load, journal, price=Price(input=1, output=2))
        ask(engine)
        assert store.usage(ADDRESS) == engine.usage
        assert engine.usage["usd"] == pytest.approx((200 + 2 * 140) / 1e6)
        with store.staging() as folder:
            store.commit(ADDRESS, folder, {"seconds": 5.0, "summary": {"usage": engine.usage}})
    assert store.usage(ADDRESS) == {**engine.usage, "seconds": 5.0}


def test_a_journal_goes_when_the_artifact_is_made_even_if_killed_between(tmp_path: Path):
    store = Folder(tmp_path)
    with store.journal(ADDRESS) as journal:
        ask(JournaledEngine(Teacher().load, journal))
        with store.staging() as folder:
            store.commit(ADDRESS, folder, {})
    assert list((tmp_path / ".journals").iterdir()) == []
    with store.journal(ADDRESS) as journal:
        journal.add({"key": "x"}, {})
    store.check_writable()
    assert list((tmp_path / ".journals").iterdir()) == []


def test_log_probabilities_are_in_the_journal_where_there_are_some(tmp_path: Path):
    class Likely(Teacher):
        def generate(self, prompts, sampling, samples, seeds, *, done=(), may_start=no_limit):
            for i, answer in super().generate(prompts, sampling, samples, seeds, done=done, may_start=may_start):
                one, other = answer.generations
                yield i, replace(answer, generations=[replace(one, first={"A": -0.25, " B": -1.5}), other])

    store = Folder(tmp_path)
    with store.journal(ADDRESS) as journal:
        expected = ask(JournaledEngine(Likely().load, journal))
        assert [g.first for g in expected[0].generations] == [{"A": -0.25, " B": -1.5}, None]
        assert ["first" in text for text in journal.entries()[0]["generations"]] == [True, False]
    with store.journal(ADDRESS) as journal:
        assert ask(JournaledEngine(Teacher(dies_at=0).load, journal)) == expected


def test_settings_that_keep_no_log_probabilities_are_dumped_as_before_there_were_any():
    sampling = Sampling()
    assert "top_logprobs" not in sampling.model_dump() | json.loads(sampling.model_dump_json())
    assert "top_logprobs" not in Instructions().model_dump(mode="json")["sampling"]
    kept = Sampling(top_logprobs=5)
    assert Sampling.model_validate(kept.model_dump()) == kept == Sampling.model_validate_json(kept.model_dump_json())


def test_progress_of_a_part_is_told_of_the_whole(tmp_path: Path):
    heard = []
    with (
        Folder(tmp_path).journal(ADDRESS) as journal,
        progress.send_to(lambda *report: heard.append(report[:3])),
    ):
        JournaledEngine(Teacher().load, journal).generate(PROMPTS[:2], Sampling(), 2, SEEDS[:2], before=5, total=20)
    assert heard == [(n, 20, "prompts") for n in (5, 6, 7)]


def test_lines_are_json_that_anybody_can_read(tmp_path: Path):
    with Folder(tmp_path).journal(ADDRESS) as journal:
        ask(JournaledEngine(Teacher().load, journal))
    (lines,) = (tmp_path / ".journals").glob("*/answers.jsonl")
    first = json.loads(lines.read_text().splitlines()[0])
    assert first["generations"][0] == {"text": "Question 9 of seed 9, 0", "finish_reason": "stop", "tokens": 7}
