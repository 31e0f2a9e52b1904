"""Answers, verdicts and grades as stages, by a real tiny model and by an endpoint over real HTTP."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from endpoint import MODEL, Body, Endpoint, Reply, completion, error, text_of

from montessori.artifacts import Folder, Request
from montessori.data.chat import Message, prompt_ids, user
from montessori.data.rows import Row, read_rows
from montessori.errors import BudgetReached, InputError, StageError
from montessori.evaluation import judging
from montessori.models import loading
from montessori.settings.engines import OpenAI
from montessori.settings.generation import Sampling
from montessori.synthesis.engines.transformers import TransformersEngine
from tasks.registry import TASKS
from tasks.runtime import worker

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mt_bench"
GREEDY = {"temperature": 0, "top_p": 1, "presence_penalty": 0, "max_tokens": 12}
ENDPOINT, LOCAL = {"engine": "openai"}, {"engine": "transformers", "dtype": "float32", "batch_size": 4}


class Bench:
    """A store, and the stages run in it."""

    def __init__(self, folder: Path):
        self.folder, self.store = folder, Folder(folder / "store")

    def make(
        self,
        stage_name: str,
        settings: dict[str, Any],
        inputs: dict[str, list[str]],
        shard: tuple[int, int] = (0, 1),
        endpoint: Endpoint | None = None,
        **means: Any,
    ) -> str:
        """The address of what a stage makes."""
        if endpoint:
            means["openai"] = OpenAI(model=MODEL, base_url=endpoint.url).model_dump(mode="json")
        request = Request(
            stage=stage_name,
            version=TASKS[stage_name].version,
            settings=settings,
            inputs=inputs,
            seed=3,
            shard=shard,
            means=means,
        )
        worker.run(request, self.store)
        return request.address

    def rows(self, address: str) -> list[Row]:
        return read_rows(self.store.open(address) / f"{address.partition('/')[0]}.parquet")

    def summary(self, address: str) -> dict[str, Any]:
        return self.store.manifest(address)["summary"]

    def file(self, name: str, rows: list[Any]) -> str:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"file:{path}#{name}"

    def questions(self, kind: str, rows: list[Any], **files: str) -> str:
        source = self.file(f"questions-{len(list(self.folder.iterdir()))}.jsonl", rows)
        return self.make("questions", {"kind": kind}, {"source": [source], **{k: [v] for k, v in files.items()}})

    def answers(self, questions: str, endpoint: Endpoint, name: str = MODEL, **settings: Any) -> str:
        whole = {**ENDPOINT, "sampling": GREEDY, **settings}
        return self.make("answers", whole, {"teacher": [f"api:{name}@x"], "questions": [questions]}, endpoint=endpoint)

    def verdicts(self, endpoint: Endpoint, right: str, shard: tuple[int, int] = (0, 1), **more: Any) -> str:
        means = {name: more.pop(name) for name in ("budget",) if name in more}
        inputs = {name: [more.pop(name)] for name in ("left", "baseline") if name in more}
        settings = {**ENDPOINT, "wording": judging.wording("verdicts"), **more}
        inputs = {"judge": ["api:judge@x"], "right": [right], **inputs}
        return self.make("verdicts", settings, inputs, shard, endpoint, **means)

    def grades(self, endpoint: Endpoint, answers: str, questions: str, **more: Any) -> str:
        prompts = {"prompts": [more.pop("prompts")]} if "prompts" in more else {}
        settings = {**ENDPOINT, "wording": judging.wording("grades"), **more}
        inputs = {"judge": ["api:judge@x"], "answers": [answers], "questions": [questions], **prompts}
        return self.make("grades", settings, inputs, endpoint=endpoint)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("NO_PROXY", "*")
    return Bench(tmp_path)


def instructions(n: int) -> list[Row]:
    return [{"instruction": f"Task {i}: name colour {i}.", "output": f"baseline {i}"} for i in range(n)]


def last(body: Body) -> str:
    return str(body["messages"][-1]["content"])


def saying(
    text: Callable[[Body], str], first: Callable[[Body], dict[str, float]] | None = None
) -> Callable[..., Reply]:
    """A rule: what the endpoint says, and the log probabilities of its first token (none unless given)."""

    def rule(body: Body, _endpoint: Endpoint) -> Reply:
        tree = completion(body, text=text(body), first=first(body) if first else None)
        if first is None:
            for choice in tree["choices"]:
                choice.pop("logprobs", None)
        return Reply(body=tree)

    return rule


ALWAYS_A = saying(lambda _: "A")


# --- Answers ----------------------------------------------------------------------------------------------------------


TWO_TURNS = [
    {"question_id": 1, "category": "writing", "turns": ["Name three colours.", "Which is the warmest?"]},
    {"question_id": 2, "category": "math", "turns": ["Add 12 and 30.", "Is that even?"]},
    {"question_id": 3, "category": "stem", "turns": ["Why is the sky blue?"]},
]


def saved(folder: Path, model: Any, tokenizer: Any, template: str | None = None) -> str:
    """The address of a model folder."""
    loading.save(model, tokenizer, folder)
    if template:
        loaded = loading.load_tokenizer(folder)
        loaded.chat_template = template
        loaded.save_pretrained(folder)
    return f"file:{folder}#{folder.name}"


def test_a_second_turn_is_asked_after_the_models_own_first_answer(bench: Bench, tiny_llama, tiny_tokenizer) -> None:
    model = tiny_llama(initializer_range=0.3)
    address = saved(bench.folder / "model", model, tiny_tokenizer)
    questions = bench.questions("mt_bench", TWO_TURNS)
    settings = {**LOCAL, "sampling": GREEDY, "temperatures": {"math": 0.0, "writing": 0.0}}
    made = bench.make("answers", settings, {"teacher": [address], "questions": [questions]})

    engine = TransformersEngine(model, tiny_tokenizer)

    def by_hand(chat: list[Message]) -> str:
        ((_, answer),) = engine.generate([chat], Sampling(**GREEDY), 1, [0])
        return answer.generations[0].text.strip()

    for row, asked in zip(bench.rows(made), TWO_TURNS, strict=True):
        chat, answers = [], []
        for turn in asked["turns"]:
            chat = [*chat, *user(turn)]
            answers.append(by_hand(chat))
            chat = [*chat, {"role": "assistant", "content": answers[-1]}]
        assert row["answers"] == answers
        assert (row["id"], row["category"], row["turns"]) == (
            str(asked["question_id"]),
            asked["category"],
            asked["turns"],
        )
        assert len(row["tokens"]) == len(row["finish_reasons"]) == len(answers)
    summary = bench.summary(made)
    assert (summary["questions"], summary["answers"], summary["chat_template"]) == (3, 5, "Montessori default")


def test_the_summary_says_whose_chat_template_was_used(bench: Bench, tiny_llama, tiny_tokenizer) -> None:
    address = saved(
        bench.folder / "own", tiny_llama(), tiny_tokenizer, "{% for m in messages %}{{ m['content'] }}:{% endfor %}"
    )
    questions = bench.questions("mt_bench", TWO_TURNS[:1])
    made = bench.make("answers", {**LOCAL, "sampling": GREEDY}, {"teacher": [address], "questions": [questions]})
    assert bench.summary(made)["chat_template"] == "the model's own"


def test_each_category_has_its_temperature_and_each_turn_its_chat(bench: Bench) -> None:
    with Endpoint() as endpoint:
        made = bench.answers(
            bench.questions("mt_bench", TWO_TURNS),
            endpoint,
            sampling={**GREEDY, "temperature": 0.7},
            temperatures={"math": 0.0, "stem": 0.1},
        )
        warmth = {body["messages"][0]["content"]: body["temperature"] for body in endpoint.asked}
        assert warmth == {"Name three colours.": 0.7, "Add 12 and 30.": 0.0, "Why is the sky blue?": 0.1}
        chats = {last(body): body["messages"] for body in endpoint.asked}
    rows = bench.rows(made)
    assert chats["Is that even?"] == [
        *user("Add 12 and 30."),
        {"role": "assistant", "content": rows[1]["answers"][0]},
        *user("Is that even?"),
    ]
    assert len({text for row in rows for text in row["answers"]}) == 5
    assert bench.summary(made)["chat_template"] == "the endpoint's"


def test_shards_of_answers_are_together_what_one_stage_makes(bench: Bench) -> None:
    questions = bench.questions("mt_bench", [{**TWO_TURNS[0], "question_id": i} for i in range(7)])
    inputs = {"teacher": ["api:m@x"], "questions": [questions]}
    settings = {**ENDPOINT, "sampling": {**GREEDY, "temperature": 1.0}}
    with Endpoint() as endpoint:
        whole = bench.rows(bench.make("answers", settings, inputs, endpoint=endpoint))
        shards = [bench.rows(bench.make("answers", settings, inputs, (i, 3), endpoint)) for i in range(3)]
    assert [row for shard in shards for row in shard] == [*whole[0::3], *whole[1::3], *whole[2::3]]


# --- Verdicts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def decided(tiny_llama, tiny_tokenizer):
    """A model whose first token is nearly always A or B, which of them the prompt says."""
    model = tiny_llama(max_position_embeddings=2048, initializer_range=0.1)
    prompt = torch.tensor(prompt_ids(tiny_tokenizer, [user("Which?")]))
    with torch.no_grad():
        hidden = model.model(prompt).last_hidden_state[0, -1]
        noise = torch.randn(2, len(hidden), generator=torch.Generator().manual_seed(1))
        noise -= (
            (noise @ hidden)[:, None] * hidden / hidden.dot(hidden)
        )  # what tells the letters apart is of the prompt
        for letter, own in zip("AB", noise, strict=True):
            model.lm_head.weight[tiny_tokenizer.convert_tokens_to_ids(letter)] = hidden + 0.2 * own
    return model


def test_a_preference_is_what_the_judges_own_softmax_says(bench: Bench, decided, tiny_tokenizer) -> None:
    judge = saved(bench.folder / "judge", decided, tiny_tokenizer)
    questions = bench.questions("alpaca_eval", instructions(5))
    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)
    settings = {**LOCAL, "wording": judging.wording("verdicts"), "both_orders": True}
    inputs = {"judge": [judge], "right": [right], "baseline": [questions]}
    made = bench.make("verdicts", settings, inputs)
    rows, ids = bench.rows(made), {letter: tiny_tokenizer.convert_tokens_to_ids(letter) for letter in "AB"}
    masses = []
    for row in rows:
        chat = judging.comparison(row["question"], row["left"], row["right"], row["swapped"])
        read = torch.tensor(prompt_ids(tiny_tokenizer, [chat]))
        with torch.inference_mode():
            shares = decided(read).logits[0, -1].double().softmax(-1)
        a, b = (shares[ids[letter]].item() for letter in "AB")
        masses.append(a + b)
        assert row["preference"] == pytest.approx((a if row["swapped"] else b) / (a + b), abs=1e-4)
        assert row["tries"] == 1
    assert [row["swapped"] for row in rows] == [False, True] * 5
    assert len({round(row["preference"], 3) for row in rows}) > 5
    assert bench.summary(made)["letters"] == pytest.approx(sum(masses) / len(masses), abs=1e-4)
    assert bench.summary(made)["prompts_cut"] == 0


def test_the_other_order_turns_a_preference_for_a_place_around_and_leaves_one_for_an_answer(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(6))

    def likes_the_baseline(body: Body) -> dict[str, float]:
        text = last(body)
        first = text.index("baseline") < text.index("</answer of A>")
        return {"A": math.log(0.8 if first else 0.2), "B": math.log(0.2 if first else 0.8)}

    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)
    with Endpoint(ALWAYS_A) as endpoint:
        by_place = bench.rows(bench.verdicts(endpoint, right, baseline=questions, both_orders=True))
        drawn = bench.rows(bench.verdicts(endpoint, right, baseline=questions))
    assert [(row["swapped"], row["preference"]) for row in by_place] == [(False, 0.0), (True, 1.0)] * 6
    assert all(row["preference"] == float(row["swapped"]) for row in drawn)
    assert len({row["swapped"] for row in drawn}) == 2
    with Endpoint(saying(lambda _: "?", likes_the_baseline)) as endpoint:
        by_answer = bench.rows(bench.verdicts(endpoint, right, baseline=questions, both_orders=True, tries=2))
    assert [row["preference"] for row in by_answer] == pytest.approx([0.2] * 12)


def test_an_unreadable_reply_is_asked_for_again_then_counted_and_not_guessed(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(9))
    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)

    def mumbling(body: Body, endpoint: Endpoint) -> Reply | None:
        number = int(last(body).split("Task ")[1][0])
        if number < 3 or (number < 6 and endpoint.times()[last(body)] == 1):
            return saying(lambda _: "Hmm, hard to say.")(body, endpoint)
        return ALWAYS_A(body, endpoint)

    with Endpoint(mumbling) as endpoint:
        made = bench.verdicts(endpoint, right, baseline=questions, tries=3, max_tokens=99)
        asked: dict[str, list[Body]] = {}
        for body in endpoint.asked:
            asked.setdefault(last(body), []).append(body)
    rows = bench.rows(made)
    assert [row["tries"] for row in rows] == [3] * 3 + [2] * 3 + [1] * 3
    assert [row["preference"] is None for row in rows] == [True] * 3 + [False] * 6
    assert [row["said"] for row in rows] == ["Hmm, hard to say."] * 3 + ["A"] * 6
    summary = bench.summary(made)
    assert (summary["verdicts"], summary["unreadable"], summary["asked_again"]) == (9, 3, 6)
    assert summary["letters"] is None
    for bodies in asked.values():
        assert [body["temperature"] for body in bodies] == [0, 0.7, 0.7][: len(bodies)]
        assert [body["max_completion_tokens"] for body in bodies] == [16, 99, 99][: len(bodies)]
        assert len({body["seed"] for body in bodies}) == len(bodies)


def test_what_the_judge_cannot_read_or_will_not_is_not_asked_again(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(4))
    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)

    def rule(body: Body, endpoint: Endpoint) -> Reply:
        too_long = error(400, "This model's maximum context length is 4 tokens", "context_length_exceeded")
        return too_long if "Task 2" in last(body) else ALWAYS_A(body, endpoint)

    with Endpoint(rule) as endpoint:
        rows = bench.rows(bench.verdicts(endpoint, right, baseline=questions))
        assert set(endpoint.times().values()) == {1}
    assert [row["preference"] is None for row in rows] == [False, False, True, False]


def test_a_judge_that_talks_nonsense_stops_the_stage_soon_and_what_it_said_is_kept(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(200))
    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)
    nonsense = saying(lambda _: "Once upon a\ntime")
    with Endpoint(nonsense) as endpoint:
        for _ in range(2):  # the second time it says so without asking
            with pytest.raises(
                StageError, match=r"32 of its first 32 .* 'Once upon a time'; .*judge\.max_unreadable"
            ) as e:
                bench.verdicts(endpoint, right, baseline=questions, tries=2, max_unreadable=20)
            assert not isinstance(e.value, BudgetReached)
            assert len(endpoint.asked) == 2 * judging.FIRST_CHUNK
    (journal,) = bench.store.journals()
    assert journal.address.startswith("verdicts/")
    with Endpoint(nonsense) as endpoint:  # few enough to bear
        made = bench.verdicts(endpoint, right, baseline=questions, tries=1, max_unreadable=200)
    assert bench.summary(made)["unreadable"] == 200


def test_half_of_the_verdicts_may_be_unreadable(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(60))
    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)
    even = saying(lambda body: "A" if int(last(body).split("colour ")[1].split(".")[0]) % 2 else "Hmm")
    with Endpoint(even) as endpoint:
        made = bench.verdicts(endpoint, right, baseline=questions, tries=1, max_unreadable=1)
    assert bench.summary(made)["unreadable"] == 30


def test_a_stage_that_went_down_asks_for_nothing_twice(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(90))
    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)
    down = True

    def rule(body: Body, endpoint: Endpoint) -> Reply:
        if down and len(endpoint.whole) >= 50:
            return error(401, "no longer")
        return ALWAYS_A(body, endpoint)

    with Endpoint(rule) as endpoint:
        with pytest.raises(InputError, match=r"\(401\)"):
            bench.verdicts(endpoint, right, baseline=questions)
        before = Counter(last(body) for body in endpoint.whole)
        down = False
        made = bench.verdicts(endpoint, right, baseline=questions)
        after = Counter(last(body) for body in endpoint.whole)
    assert before.total() >= 50
    assert len(after) == 90
    assert set(after.values()) == {1}
    assert bench.summary(made)["usage"]["prompts"] == 90


def test_a_budget_holds_the_judge_and_its_price_counts(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(40))
    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)
    with Endpoint(ALWAYS_A) as endpoint:
        budget = {"limits": {"tokens": 2000}, "parts": [], "paid": {}}
        with pytest.raises(BudgetReached, match=r"budget\.tokens"):
            bench.verdicts(endpoint, right, baseline=questions, budget=budget)
        assert 1 < len(endpoint.asked) < 40


def test_answers_without_a_counterpart_are_left_out_and_counted(bench: Bench) -> None:
    rows = instructions(8)
    questions = bench.questions("alpaca_eval", rows[:6])
    others = bench.questions("alpaca_eval", [{**row, "output": "theirs"} for row in rows[2:]])  # with other ids
    with Endpoint() as endpoint:
        right = bench.answers(questions, endpoint)
        left = bench.answers(bench.questions("alpaca_eval", rows[1:]), endpoint)
        assert not {row["id"] for row in bench.rows(others)} & {row["id"] for row in bench.rows(questions)}
    with Endpoint(ALWAYS_A) as endpoint:
        by_text = bench.verdicts(endpoint, right, baseline=others)
        assert [row["question"] for row in bench.rows(by_text)] == [row["instruction"] for row in rows[2:6]]
        assert {row["left"] for row in bench.rows(by_text)} == {"theirs"}
        assert bench.summary(by_text)["unmatched"] == 4
        shards = [bench.verdicts(endpoint, right, (i, 3), baseline=others) for i in range(3)]
        assert sum(bench.summary(shard)["unmatched"] for shard in shards) == 4
        found = [row for shard in shards for row in bench.rows(shard)]
        assert sorted(found, key=lambda row: row["index"]) == bench.rows(by_text)
        with pytest.raises(InputError, match="none of its answers is to a question that is answered on the left"):
            bench.verdicts(endpoint, right, left=left)  # joined by id, which the place in the file makes too


def test_two_models_answers_are_joined_by_id(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(5))
    with Endpoint() as endpoint:
        left = bench.answers(questions, endpoint, sampling={**GREEDY, "temperature": 0.5}, name="other")
        shards = [
            bench.make(
                "answers",
                {**ENDPOINT, "sampling": GREEDY},
                {"teacher": ["api:m@x"], "questions": [questions]},
                (i, 2),
                endpoint,
            )
            for i in range(2)
        ]
    with Endpoint(ALWAYS_A) as endpoint:
        inputs = {"judge": ["api:judge@x"], "left": [left], "right": shards}
        settings = {**ENDPOINT, "wording": judging.wording("verdicts")}
        made = bench.make("verdicts", settings, inputs, endpoint=endpoint)
    rows = bench.rows(made)
    assert [row["id"] for row in rows] == [row["id"] for row in bench.rows(questions)]
    texts = {row["id"]: row["answers"][0] for row in bench.rows(left)}
    assert [row["left"] for row in rows] == [texts[row["id"]] for row in rows]
    assert bench.summary(made)["unmatched"] == 0


def test_prompts_other_than_those_planned_with_are_not_used(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(2))
    with Endpoint(ALWAYS_A) as endpoint:
        right = bench.answers(questions, endpoint)
        before = len(endpoint.asked)
        for make in (
            lambda: bench.verdicts(endpoint, right, baseline=questions, wording="another"),
            lambda: bench.grades(endpoint, right, questions, wording="another"),
        ):
            with pytest.raises(StageError, match=r"wording: .*same Montessori"):
                make()
        assert len(endpoint.asked) == before


# --- Grades -----------------------------------------------------------------------------------------------------------


def mt_bench(bench: Bench, *ids: int) -> str:
    """The address of some of MT-Bench's questions with their references."""
    files = DATA / "question.jsonl", DATA / "reference_answer_gpt-4.jsonl"
    for path in files:
        if not path.is_file():
            pytest.skip(f"{path} is not there")
    rows = [row for row in map(json.loads, files[0].read_text().splitlines()) if row["question_id"] in ids]
    return bench.questions("mt_bench", rows, references=f"file:{files[1]}#0")


def test_each_turn_is_graded_with_its_reference_and_the_conversation_before_it(bench: Bench) -> None:
    questions = mt_bench(bench, 81, 101)
    with Endpoint() as endpoint:
        answers = bench.answers(questions, endpoint)
    with Endpoint(saying(lambda body: f"Well. [[{2 + len(last(body)) % 8}]]")) as endpoint:
        made = bench.grades(endpoint, answers, questions)
        prompts = [last(body) for body in sorted(endpoint.asked, key=lambda body: len(last(body)))]
    rows, asked = bench.rows(made), {row["id"]: row for row in bench.rows(questions)}
    answered = {row["id"]: row["answers"] for row in bench.rows(answers)}
    assert [(row["id"], row["turn"], row["category"]) for row in rows] == [
        ("81", 0, "writing"),
        ("81", 1, "writing"),
        ("101", 0, "reasoning"),
        ("101", 1, "reasoning"),
    ]
    for row in rows:
        question = asked[row["id"]]
        assert (row["question"], row["answer"]) == (
            question["turns"][row["turn"]],
            answered[row["id"]][row["turn"]],
        )
        (chat,) = judging.grading(
            judging.GRADING,
            question["turns"],
            answered[row["id"]],
            references=question["references"],
            turn=row["turn"],
        )
        assert chat["content"] in prompts
        assert row["grade"] == 2 + len(chat["content"]) % 8
        shown = [*question["turns"][: row["turn"] + 1], *answered[row["id"]][: row["turn"] + 1]]
        shown += (question["references"] or [])[: row["turn"] + 1]
        assert all(text in chat["content"] for text in shown)
    assert bench.summary(made)["with_reference"] == 2
    assert bench.summary(made)["prompts"] == "our own"


def test_mt_benchs_own_prompts_replace_ours(bench: Bench) -> None:
    questions = mt_bench(bench, 81, 101)
    templates = {row["name"]: row for row in map(json.loads, (DATA / "judge_prompts.jsonl").read_text().splitlines())}
    with Endpoint() as endpoint:
        answers = bench.answers(questions, endpoint)
    with Endpoint(saying(lambda _: "Rating: [[4.5]]")) as endpoint:
        made = bench.grades(endpoint, answers, questions, prompts=f"file:{DATA / 'judge_prompts.jsonl'}#0")
        chats = [body["messages"] for body in endpoint.asked]
    (question,) = (row for row in bench.rows(questions) if row["id"] == "101")
    (one, two), (ref_one, ref_two) = question["turns"], question["references"]
    a, b = next(row["answers"] for row in bench.rows(answers) if row["id"] == "101")
    expected = templates["single-math-v1-multi-turn"]["prompt_template"].format(
        question_1=one, question_2=two, answer_1=a, answer_2=b, ref_answer_1=ref_one, ref_answer_2=ref_two
    )
    assert expected in [chat[1]["content"] for chat in chats]
    expected = templates["single-math-v1"]["prompt_template"].format(question=one, answer=a, ref_answer_1=ref_one)
    assert expected in [chat[1]["content"] for chat in chats]
    assert {row["grade"] for row in bench.rows(made)} == {4.5}
    assert bench.summary(made)["prompts"] == "a file"


def test_an_unreadable_grade_stays_none(bench: Bench) -> None:
    questions = bench.questions("mt_bench", TWO_TURNS)
    with Endpoint() as endpoint:
        answers = bench.answers(questions, endpoint)

    def rule(body: Body, endpoint: Endpoint) -> Reply:
        return saying(lambda _: "A fine answer." if "sky" in last(body) else "[[6]]")(body, endpoint)

    with Endpoint(rule) as endpoint:
        made = bench.grades(endpoint, answers, questions, tries=2, max_tokens=40)
        assert {body["max_completion_tokens"] for body in endpoint.asked} == {40}
        assert not any("logprobs" in body for body in endpoint.asked)
    assert [(row["grade"], row["tries"]) for row in bench.rows(made)] == [(6.0, 1)] * 4 + [(None, 2)]
    assert bench.rows(made)[-1]["said"] == "A fine answer."
    assert bench.summary(made)["unreadable"] == 1


def test_a_local_model_grades_too(bench: Bench, tiny_llama, tiny_tokenizer) -> None:
    judge = saved(bench.folder / "judge", tiny_llama(max_position_embeddings=2048), tiny_tokenizer)
    questions = bench.questions("mt_bench", TWO_TURNS[:1])
    with Endpoint() as endpoint:
        answers = bench.answers(questions, endpoint)
    settings = {**LOCAL, "wording": judging.wording("grades"), "max_tokens": 8, "tries": 2}
    made = bench.make("grades", settings, {"judge": [judge], "answers": [answers], "questions": [questions]})
    assert [(row["grade"], row["tries"]) for row in bench.rows(made)] == [(None, 2)] * 2
    assert bench.summary(made)["usage"]["prompts"] == 4


def test_answers_to_other_questions_are_wrong_input(bench: Bench) -> None:
    questions, others = bench.questions("mt_bench", TWO_TURNS), bench.questions("mt_bench", TWO_TURNS[1:])
    with Endpoint() as endpoint:
        answers = bench.answers(questions, endpoint)
        with pytest.raises(InputError, match="answers: 1 is none of the questions"):
            bench.grades(endpoint, answers, others)
        with pytest.raises(InputError, match="question 1 has 2 turns; answers are compared to one alone"):
            bench.verdicts(endpoint, answers, left=answers)
        with pytest.raises(InputError, match="bring no output to compare with"):
            bench.verdicts(endpoint, answers, baseline=questions)


def test_an_error_names_the_setting_of_whoever_writes(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(2))
    with Endpoint() as endpoint:
        answers = bench.answers(questions, endpoint)
    with pytest.raises(InputError, match=r"^openai\.base_url = .*: cannot be reached"):  # a model under test
        bench.answers(bench.questions("alpaca_eval", instructions(3)), endpoint)
    with pytest.raises(InputError, match=r"^judge\.openai\.base_url = .*: cannot be reached"):
        bench.verdicts(endpoint, answers, left=answers)


def test_the_texts_an_endpoint_gives_are_the_answers(bench: Bench) -> None:
    questions = bench.questions("alpaca_eval", instructions(3))
    with Endpoint() as endpoint:
        made = bench.answers(questions, endpoint)
        seeds = {last(body): body["seed"] for body in endpoint.asked}
    for row in bench.rows(made):
        (turn,) = row["turns"]
        assert row["answers"] == [text_of(user(turn), seeds[turn])]
    assert len(set(seeds.values())) == 3
