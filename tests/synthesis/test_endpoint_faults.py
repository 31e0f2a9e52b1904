"""Endpoints that refuse parameters, break their replies or ignore the limit: each ends in a defined way."""

import json
from contextlib import closing

import pytest
from endpoint import MODEL, Body, Endpoint, Reply, completion, error, text_of, tokens_of

from montessori.artifacts.journal import FileJournal
from montessori.data.chat import user
from montessori.errors import InputError, StageError
from montessori.settings.engines import OpenAI, Price
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import connection
from montessori.synthesis.engines import openai as module
from montessori.synthesis.engines.openai import OpenAIEngine, Unavailable
from montessori.synthesis.journaled_engine import JournaledEngine

KEY = "sk-not-for-anyones-eyes"
PLAIN = Sampling(temperature=1, top_p=1, presence_penalty=0, max_tokens=100)


@pytest.fixture(autouse=True)
def hurried(monkeypatch, caplog):
    """Set the key, which nothing may log, and retry almost at once."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(module, "TRIES", 3)
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.002)
    yield
    assert not [record for record in caplog.get_records("call") if KEY in record.getMessage()]


def engine(server, **more):
    return OpenAIEngine(OpenAI(**{"model": MODEL, "base_url": server.url, "timeout_s": 60, **more}))


def prompts(n):
    return [user(f"Question {i} of many") for i in range(n)]


def ask(engine, n, samples=1, sampling=PLAIN):
    return {i: a for i, a in engine.generate(prompts(n), sampling, samples, list(range(n))) if a.generations}


def number(body):
    said = body["messages"][-1]["content"]
    return -1 if said == "Hi." else int(said.split()[1])


def whole(answers, n, samples=1):
    return {i: [g.text for g in answers[i].generations] for i in answers} == {
        i: [text_of(prompts(n)[i], i + k) for k in range(samples)] for i in range(n)
    }


def changed(body, *, choice=None, usage=None, message=None, **top):
    """The right answer to a request, with changes."""
    tree = completion(body)
    for one in tree["choices"]:
        one.update(choice or {})
        one["message"].update(message or {}) if one.get("message") else None
    return Reply(body={**tree, "usage": {**tree["usage"], **(usage or {})}, **top})


# --- Parameters -------------------------------------------------------------------------------------------------------


def test_neutral_values_are_not_sent_but_to_a_server_of_ones_own():
    with Endpoint() as endpoint:
        ask(engine(endpoint), 1)
        assert endpoint.asked[0].keys() == {"model", "messages", "seed", "max_completion_tokens"}
    for owner in ("vllm", "llamacpp"):  # these take missing values from the model's files, or have others
        with Endpoint(owned_by=owner) as endpoint:
            ask(engine(endpoint), 1)
            assert endpoint.asked[0]["temperature"] == endpoint.asked[0]["top_p"] == 1


def test_omit_and_extra_body_change_the_body():
    settings = {"omit": ["seed", "presence_penalty"], "extra_body": {"reasoning_effort": "low", "temperature": 1}}
    with Endpoint() as endpoint:
        ask(engine(endpoint, **settings), 1, sampling=PLAIN.model_copy(update={"presence_penalty": 1.0}))
        assert endpoint.asked[0].keys() == {
            *("model", "messages", "max_completion_tokens"),
            *("reasoning_effort", "temperature"),
        }
        with pytest.raises(InputError, match=r"sampling\.temperature = 0\.5: generation\.openai\.extra_body has 1"):
            ask(engine(endpoint, **settings), 1, sampling=PLAIN.model_copy(update={"temperature": 0.5}))


@pytest.mark.parametrize(
    "wrong",
    [{"omit": ["messages"]}, {"extra_body": {"model": "x"}}, {"extra_body": {"stream": True}}],
)
def test_what_every_request_needs_cannot_be_changed(wrong):
    with pytest.raises(ValueError, match="take it out"):
        OpenAI(**wrong)


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ("max_completion_tokens", {"max_completion_tokens"}),
        ("max_tokens", {"max_tokens"}),
        ("both", {"max_completion_tokens", "max_tokens"}),
    ],
)
def test_the_limit_has_the_name_in_the_settings(setting, sent):
    with Endpoint() as endpoint:
        ask(engine(endpoint, limit_parameter=setting), 1)
        assert {name for name, value in endpoint.asked[0].items() if value == 100} == sent


def mistral(name):
    """An error as Mistral words it, with the body that it refuses."""
    one = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}
    return Reply(422, {"object": "error", "message": {"detail": [one]}, "type": "invalid_request_error"})


@pytest.mark.parametrize(
    ("name", "refusal", "setting"),
    [
        ("max_completion_tokens", mistral("max_completion_tokens"), "max_completion_tokens"),
        ("max_completion_tokens", error(400, "Unrecognized request argument: max_completion_tokens"), "both"),
        (
            "max_tokens",
            error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
            "max_tokens",
        ),
        ("n", error(400, "'n' : number must be at most 1"), "max_tokens"),
        ("n", mistral("n"), "max_tokens"),
        ("n", Reply(400, {"error": {"message": "only one completion", "param": "n"}}), "max_tokens"),
    ],
)
def test_a_refused_limit_has_another_name_and_a_refused_n_is_n_requests(name, refusal, setting):
    with Endpoint(lambda body, endpoint: refusal if name in body else None) as endpoint:
        client = engine(endpoint, limit_parameter=setting)
        assert whole(ask(client, 20, samples=3), 20, samples=3)
        assert sum(name in body for body in endpoint.asked) <= 8  # those under way
        assert len(endpoint.whole) == (60 if name == "n" else 20)


@pytest.mark.parametrize("name", ["presence_penalty", "seed", "temperature", "stop"])
@pytest.mark.parametrize("refusal", [mistral, lambda name: error(400, f"Argument not supported on this model: {name}")])
def test_another_refused_parameter_is_an_error_with_the_providers_words_and_the_setting(name, refusal):
    sampling = Sampling(temperature=0.5, presence_penalty=1, stop=("x",))
    said = rf"not (permitted|supported).*; add {name} to generation\.openai\.omit"
    with Endpoint(lambda body, endpoint: refusal(name) if name in body else None) as endpoint:
        with pytest.raises(InputError, match=said):
            ask(engine(endpoint), 20, sampling=sampling)
        assert len(endpoint.asked) <= 8
        assert len(ask(engine(endpoint, omit=[name]), 20, sampling=sampling)) == 20


def test_a_limit_that_is_refused_by_both_names_is_an_error():
    refusal = lambda body: mistral(next(name for name in body if name.startswith("max_")))  # noqa: E731
    with Endpoint(lambda body, endpoint: refusal(body)) as endpoint:
        with pytest.raises(
            InputError, match=r"not permitted; lower max_tokens, or set generation\.openai\.limit_param"
        ):
            ask(engine(endpoint), 20)
        assert len(endpoint.asked) <= 16


@pytest.mark.parametrize(
    "body", ["reason: no such luck", {"detail": "no such luck"}, {"error": {"metadata": {"raw": "no such luck"}}}]
)
def test_an_error_has_the_providers_words_however_they_come(body):
    with (
        Endpoint(lambda asked, endpoint: Reply(422, body)) as endpoint,
        pytest.raises(InputError, match=r"\(422\): .*no such luck"),
    ):
        ask(engine(endpoint), 20)


# --- Replies ----------------------------------------------------------------------------------------------------------

PARTS = [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": []}, {"text": "b"}]
CUT = "Could not finish the message because max_tokens or model output limit was reached."
UPSTREAM = {"finish_reason": "error", "error": {"message": "upstream died"}}
GOOD = [
    (lambda body: changed(body, message={"content": PARTS}), "ab", "stop"),
    (lambda body: changed(body, message={"content": "a", "reasoning_content": "long thoughts"}), "a", "stop"),
    (lambda body: changed(body, choice={"message": None, "finish_reason": "length"}), "", "length"),
    (lambda body: changed(body, choice={"finish_reason": "tool_calls"}, message={"content": None}), "", "tool_calls"),
    (lambda body: changed(body, message={"content": "a \ud83d\ude00 \ud83d b"}), "a \U0001f600 \ufffd b", "stop"),
    (lambda body: error(400, CUT), "", "length"),
]


@pytest.mark.parametrize(("reply", "text", "finish"), GOOD)
def test_replies_of_other_forms_are_read(reply, text, finish):
    with Endpoint(lambda body, endpoint: reply(body)) as endpoint:
        (answer,) = ask(engine(endpoint), 1).values()
        assert [(g.text, g.finish_reason) for g in answer.generations] == [(text, finish)]
        assert len(endpoint.asked) == 1
    answer.generations[0].text.encode()


@pytest.mark.parametrize(
    ("usage", "read", "written"),
    [
        ({"completion_tokens": None}, 4, 0),
        ({"prompt_tokens": 7, "completion_tokens": None, "total_tokens": 57}, 7, 50),  # thoughts are billed
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, 0, 0),
        ({"completion_tokens": 12.0, "total_tokens": None}, 4, 12),
    ],
)
def test_a_missing_count_is_zero(usage, read, written):
    def rule(body, endpoint):
        reply = changed(body, usage={"total_tokens": None, **usage})
        reply.body["usage"] = {name: value for name, value in reply.body["usage"].items() if value is not None}
        return reply

    with Endpoint(rule) as endpoint:
        (answer,) = ask(engine(endpoint), 1).values()
    assert (answer.prompt_tokens, answer.tokens) == (read, written)


BROKEN = [
    (lambda body: changed(body, choice=UPSTREAM), 'finish_reason is "error": upstream died'),
    (lambda body: changed(body, choice={"finish_reason": None}), "finish_reason is null"),
    (lambda body: changed(body, choice={"finish_reason": "MALFORMED"}), 'finish_reason is "MALFORMED"'),
    (lambda body: changed(body, error={"message": "no capacity", "code": 502}), "no capacity"),
    (lambda body: changed(body, message={"content": 7}), "the content is no text"),
    (lambda body: changed(body, usage={"completion_tokens": -5}), "the usage is absurd: completion_tokens is -5"),
    (lambda body: changed(body, usage={"prompt_tokens": 1.5}), "the usage is absurd: prompt_tokens is 1.5"),
    (lambda body: changed(body, usage={"prompt_tokens": 10**9}), "the usage is absurd: 1000000000 tokens"),
    (lambda body: changed(body, usage={"completion_tokens": 10**9}), "1000000000 generated tokens"),
    (lambda body: changed(body, usage={"completion_tokens": True}), "completion_tokens is true"),
    (lambda body: Reply(body={"error": {"message": "no capacity"}}), "no capacity"),
    (lambda body: error(500, "this prompt crashes it"), "this prompt crashes it"),
    (lambda body: error(400, "Invalid characters in the prompt"), "Invalid characters in the prompt"),
    (
        lambda body: changed(body, message={"content": "word " * 6000}),
        "ignores max_completion_tokens: a text of 30,0",
    ),
    (lambda body: changed(body, usage={"completion_tokens": 5000}), "5,000 tokens, where 100 were allowed; set "),
]


@pytest.mark.parametrize(("reply", "reason"), BROKEN)
@pytest.mark.parametrize("at", [0, 12])
def test_a_prompt_that_is_never_answered_well_is_set_aside_and_the_others_go_on(reply, reason, at):
    with Endpoint(lambda body, endpoint: reply(body) if number(body) == at else None) as endpoint:
        answers = ask(engine(endpoint), 20)
        assert max(endpoint.times().values()) <= 3
    failed = answers.pop(at)
    assert [(g.text, g.finish_reason) for g in failed.generations] == [("", "failed")]
    assert reason in failed.error
    assert {i: a.generations[0].text for i, a in answers.items()} == {
        i: text_of(prompts(20)[i], i) for i in range(20) if i != at
    }
    assert not any(answer.error for answer in answers.values())


@pytest.mark.parametrize(("reply", "reason"), BROKEN)
def test_where_every_reply_is_broken_the_endpoint_is_at_fault(reply, reason):
    with Endpoint(lambda body, endpoint: reply(body)) as endpoint:
        with pytest.raises((InputError, Unavailable)) as raised:
            ask(engine(endpoint), 100)
        assert reason in str(raised.value)
        assert len(endpoint.asked) <= 8 * 3 + 1


def test_a_prompt_that_is_alone_and_never_answered_does_not_block(caplog):
    """A short prompt tells that the endpoint answers others."""
    with Endpoint(lambda body, endpoint: error(500, "oops") if number(body) == 0 else None) as endpoint:
        ((_, bill), (_, answer)) = engine(endpoint).generate(prompts(1), PLAIN, 1, [0])
        assert [body["max_completion_tokens"] for body in endpoint.asked] == [100, 100, 100, 16]
    assert "oops" in answer.error
    assert not bill.generations
    assert bill.billed_prompt_tokens == 1 and bill.billed_tokens > 0


def test_a_prompt_that_cannot_be_sent_is_set_aside():
    with Endpoint() as endpoint:
        chats = [user("Half \ud83d"), *prompts(3)]
        answers = dict(engine(endpoint).generate(chats, PLAIN, 1, [0] * 4))
        assert len(endpoint.asked) == 3
    assert "lone surrogate" in answers[0].error
    assert [bool(answers[i].error) for i in range(4)] == [True, False, False, False]


@pytest.mark.parametrize("given", [{"choices": []}, {"choices": None}, {"choices": [{"finish_reason": "stop"}]}])
def test_a_reply_without_a_message_is_an_empty_answer_after_three_tries(given):
    rule = lambda body, endpoint: changed(body, **given) if number(body) == 3 else None  # noqa: E731
    with Endpoint(rule) as endpoint:
        answers = ask(engine(endpoint), 10)
        assert endpoint.times()["Question 3 of many"] == 3
    (text,) = answers[3].generations
    assert (text.text, text.finish_reason, answers[3].error) == ("", "empty", "")
    assert answers[3].billed_tokens == 3 * tokens_of(text_of(prompts(10)[3], 3))


def test_a_reply_without_choices_or_usage_is_an_empty_answer_too():
    blocked = Reply(body={"object": "chat.completion", "choices": []})
    with Endpoint(lambda body, endpoint: blocked if number(body) == 3 else None) as endpoint:
        (text,) = ask(engine(endpoint), 10)[3].generations
    assert (text.text, text.finish_reason) == ("", "empty")


def test_a_broken_sample_is_generated_again_and_its_tokens_are_billed():
    def rule(body, endpoint):
        reply = Reply(body=completion(body))
        if body.get("n") == 4:
            reply.body["choices"][0]["finish_reason"] = "error"
        return reply

    with Endpoint(rule) as endpoint:
        (answer,) = ask(engine(endpoint), 1, samples=4).values()
        assert [body.get("n", 1) for body in endpoint.asked] == [4, 1]
        billed = [completion(body)["usage"] for body in endpoint.asked]
    assert [g.finish_reason for g in answer.generations] == ["stop"] * 4
    assert answer.billed_tokens == sum(usage["completion_tokens"] for usage in billed)
    assert answer.billed_prompt_tokens == sum(usage["prompt_tokens"] for usage in billed)


# --- The connection ---------------------------------------------------------------------------------------------------


def test_a_redirect_to_another_host_is_refused_and_the_key_stays():
    with Endpoint() as other:
        elsewhere = Reply(307, {}, {"Location": f"{other.url}/chat/completions?x={KEY}"})
        said = r"redirects to http://127\.0\.0\.1:\d+, and the key must not follow"
        with Endpoint(lambda body, endpoint: elsewhere) as endpoint, pytest.raises(InputError, match=said) as raised:
            ask(engine(endpoint), 5)
        models = Reply(302, {}, {"Location": f"{other.url}/models"})
        with Endpoint(models=models) as endpoint, pytest.raises(InputError, match=said):
            engine(endpoint)
        assert not other.headers
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda body: changed(body, padding="x" * 3000), r"sent a body of more than 2,000 bytes"),
        (lambda body: Reply(500, "x" * 3000), r"sent a body of more than 2,000 bytes"),
        (lambda body: Reply(body=completion(body), headers={"Content-Encoding": "gzip"}), "sent a compressed body"),
    ],
)
def test_a_body_has_a_limit(monkeypatch, reply, said):
    monkeypatch.setattr(connection, "MOST_BYTES", 2000)
    with Endpoint(lambda body, endpoint: reply(body)) as endpoint:
        with pytest.raises(InputError, match=said):
            ask(engine(endpoint), 5)
        assert {headers["accept-encoding"] for headers in endpoint.headers} == {"identity"}
        assert len(endpoint.asked) <= 6


# --- With the journal -------------------------------------------------------------------------------------------------


def journaled(server, folder, **more):
    journal = FileJournal(folder)
    return closing(journal), JournaledEngine(lambda: engine(server), journal, **more)


def refuse(*numbers):
    return lambda body, endpoint: error(400, "bad prompt") if number(body) in numbers else None


def test_failed_prompts_within_the_share_are_set_aside_named_and_not_paid_again(tmp_path, caplog):
    with Endpoint(refuse(3, 77)) as endpoint:
        for _ in range(2):
            closes, teacher = journaled(endpoint, tmp_path, max_failed=0.01)
            with closes:
                answers = teacher.generate(prompts(200), PLAIN, 1, list(range(200)))
            assert [i for i, answer in enumerate(answers) if answer.error] == [3, 77]
            found = teacher.summary()
            assert (found["failed"], found["thinking_removed"]) == (2, 0)
            assert sorted(one["prompt"] for one in found["failed_prompts"]) == [
                "Question 3 of many",
                "Question 77 of many",
            ]
            assert "bad prompt" in found["failed_prompts"][0]["error"]
        assert len(endpoint.asked) == 200
    assert "set aside, prompt 'Question 3 of many': " in caplog.text


def test_more_failed_prompts_end_the_task_and_are_sent_again_by_the_next(tmp_path):
    with Endpoint(refuse(3, 7, 9)) as endpoint:
        closes, teacher = journaled(endpoint, tmp_path)
        said = (
            r"^\d of 200 prompts got no answer, and generation\.max_failed = 0\.01 allows 2; the first is 'Question . "
        )
        with closes, pytest.raises(StageError, match=said + r"of many': .*bad prompt.*raise generation\.max_failed$"):
            teacher.generate(prompts(200), PLAIN, 1, list(range(200)))
        assert len(endpoint.asked) < 100
        endpoint.rule = lambda body, endpoint: None
        closes, teacher = journaled(endpoint, tmp_path)
        with closes:
            answers = teacher.generate(prompts(200), PLAIN, 1, list(range(200)))
    assert not any(answer.error for answer in answers)
    assert sum(endpoint.times().values()) == 203


@pytest.mark.parametrize(("share", "fails"), [(0.0, True), (0.01, False)])
def test_one_prompt_of_a_few_may_fail_unless_none_may(tmp_path, share, fails):
    with Endpoint(refuse(2)) as endpoint:
        closes, teacher = journaled(endpoint, tmp_path, max_failed=share, block="judge.")
        with closes:
            if fails:
                with pytest.raises(StageError, match=r"judge\.max_failed = 0 allows 0"):
                    teacher.generate(prompts(5), PLAIN, 1, list(range(5)))
            else:
                assert teacher.generate(prompts(5), PLAIN, 1, list(range(5)))[2].error


def test_every_billed_token_is_in_the_usage_also_after_another_start(tmp_path):
    """Discarded replies, those of failed prompts, and those before the endpoint goes away."""
    billed: list[Body] = []

    def rule(body, endpoint):
        reply = Reply(body=completion(body))
        if number(body) in (1, 2) and (number(body) == 1 or endpoint.times()["Question 2 of many"] < 3):
            reply.body["choices"][0]["finish_reason"] = "error"
        billed.append(reply.body["usage"])
        return reply

    with Endpoint(rule) as endpoint:
        closes, teacher = journaled(endpoint, tmp_path, price=Price(input=1, output=10))
        with closes:
            teacher.generate(prompts(30), PLAIN, 2, list(range(30)))
    closes, again = journaled(endpoint, tmp_path, price=Price(input=1, output=10))
    with closes:
        assert {**again.usage, "seconds": 0} == {**teacher.usage, "seconds": 0}
    read, written = (sum(usage[name] for usage in billed) for name in ("prompt_tokens", "completion_tokens"))
    assert (teacher.usage["prompt_tokens"], teacher.usage["completion_tokens"]) == (read, written)
    assert teacher.usage["usd"] == pytest.approx((read + 10 * written) / 1e6)


def test_tokens_are_billed_when_the_endpoint_goes_away_in_the_middle_of_a_prompt(tmp_path):
    with Endpoint(
        lambda body, endpoint: Reply(body=completion(body, 1)) if body["n"] > 2 else error(500, "")
    ) as endpoint:
        closes, teacher = journaled(endpoint, tmp_path)
        endpoint.rule = lambda body, endpoint: (
            Reply(body=completion(body, 1)) if len(endpoint.asked) <= 1 else error(500, "gone")
        )
        with closes, pytest.raises(Unavailable):
            teacher.generate(prompts(1), PLAIN, 3, [0])
        assert teacher.usage["prompts"] == 0
        assert teacher.usage["prompt_tokens"] == 4
        assert teacher.usage["completion_tokens"] == tokens_of(text_of(prompts(1)[0], 0))


def test_thoughts_are_in_the_journal_but_not_in_the_answers(tmp_path):
    rule = lambda body, endpoint: changed(body, message={"content": f"<think>\nHm.\n</think>\n\n{number(body)}"})  # noqa: E731
    with Endpoint(rule) as endpoint:
        for without, text, count in ((True, "0", 3), (False, "<think>\nHm.\n</think>\n\n0", 0)):
            closes, teacher = journaled(endpoint, tmp_path, without_thinking=without)
            with closes:
                answers = teacher.generate(prompts(3), PLAIN, 1, [0, 1, 2])
                assert answers[0].generations[0].text == text
                assert teacher.summary()["thinking_removed"] == count
        assert len(endpoint.asked) == 3
    entries = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert all("<think>" in entry["generations"][0]["text"] for entry in entries)
