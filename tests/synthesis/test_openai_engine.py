"""The engine for endpoints, with the real client over real HTTP: what it gets right when they do not."""

import asyncio
import math
import random
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import closing
from email.utils import formatdate
from pathlib import Path

import pytest
from endpoint import MODEL, Endpoint, Proxy, Reply, completion, error, likely_first, text_of, tokens_of

from montessori.artifacts.journal import FileJournal
from montessori.data.chat import user
from montessori.errors import BudgetReached, InputError
from montessori.settings.engines import OpenAI, Price
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import openai as module
from montessori.synthesis.engines.connection import retry_after
from montessori.synthesis.engines.openai import OpenAIEngine, Unavailable, _delay
from montessori.synthesis.engines.reply import shares_of
from montessori.synthesis.engines.window import Window
from montessori.synthesis.journaled_engine import JournaledEngine

KEY = "sk-not-for-anyones-eyes"
SAMPLING = Sampling()


@pytest.fixture(autouse=True)
def key(monkeypatch, caplog):
    """Set the key, which nothing may log in any of these tests."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")
    yield
    assert not [record for record in caplog.get_records("call") if KEY in record.getMessage()]


@pytest.fixture
def hurried(monkeypatch):
    """Three tries, almost at once."""
    monkeypatch.setattr(module, "TRIES", 3)
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.002)


def settings(server, **more):
    return OpenAI(**{"model": MODEL, "base_url": server.url, "max_concurrency": 64, "timeout_s": 60, **more})


def engine(server, **more):
    return OpenAIEngine(settings(server, **more))


def prompt(i):
    return user(f"Question {i} of many")


def prompts(n):
    return [prompt(i) for i in range(n)]


def seeds(n):
    return [100 * i for i in range(n)]


def ask(engine, n, samples=1, sampling=SAMPLING):
    """The answers by the numbers of their prompts, each of which came once."""
    answers = list(engine.generate(prompts(n), sampling, samples, seeds(n)))
    assert len(answers) == len(dict(answers))
    return dict(answers)


def expected(i, samples=1):
    return [text_of(prompt(i), 100 * i + k) for k in range(samples)]


def texts(answer):
    return [generation.text for generation in answer.generations]


def all_right(answers, n, samples=1):
    return sorted(answers) == list(range(n)) and all(texts(answers[i]) == expected(i, samples) for i in answers)


def number(body):
    """Which prompt a request is for, or -1 for the one that only tells if the endpoint answers."""
    said = body["messages"][-1]["content"]
    return -1 if said == "Hi." else int(said.split()[1])


def once(reply):
    """A rule: each prompt gets `reply` the first time."""
    return lambda body, endpoint: reply if endpoint.times()[body["messages"][-1]["content"]] == 1 else None


def in_full(raised):
    """All that a log could show of an error."""
    return "".join(traceback.format_exception(raised.value)) + repr(raised.value)


# --- Nothing is lost, nothing is asked for twice ----------------------------------------------------------------------


@pytest.mark.long
def test_of_5000_answers_through_many_faults_none_is_lost_wrong_or_asked_for_again():
    async def after_a_moment(body, endpoint):
        await asyncio.sleep(0.005)

    faults = {"overloaded": 0.1, "resets": 0.02, "truncated": 0.01, "malformed": 0.005, "errors": 0.005}
    with Endpoint(after_a_moment) as endpoint, Proxy(endpoint.url, seed=0, **faults) as proxy:
        client = engine(proxy)
        assert all_right(ask(client, 5000, samples=2), 5000, samples=2)
        assert len(proxy.delivered) == 5000
        assert set(proxy.delivered.values()) == {1}
        assert proxy.asked.total() == 5000 + proxy.faults.total()
        assert proxy.faults.total() > 5000 * 0.12
        assert client._window.size > 32  # or a slow endpoint would take hours


def test_each_kind_of_fault_is_tried_again(hurried):
    odd = [
        error(408, "took too long"),
        error(409, "conflict"),
        error(429, "slow down"),
        error(500, "oops"),
        error(529, "overloaded"),
        Reply(502, "<html>Bad gateway</html>"),
        Reply(200, "<html>Who are you?</html>"),
        Reply(200, '{"choices": [{"index"'),
        Reply(body=None),
        Reply(body=[]),
        Reply(body={"error": {"message": "of the model behind"}}),
        Reply(body={"choices": []}),
        Reply(body={"choices": [7], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
        Reply(body={"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}),
        Reply(body={"choices": [{"index": 0, "message": {"content": "Half of"}, "finish_reason": None}]}),
    ]
    rule = lambda body, endpoint: once(odd[number(body)])(body, endpoint)  # noqa: E731
    with Endpoint(rule) as endpoint:
        assert all_right(ask(engine(endpoint), len(odd)), len(odd))
        assert set(endpoint.times().values()) == {2}


@pytest.mark.parametrize("reply", [Reply(never_ends=True), "nothing"])
def test_a_request_that_takes_too_long_is_tried_again(hurried, reply):
    """Whether nothing comes, or blanks come without end."""

    async def rule(body, endpoint):
        found = once(reply)(body, endpoint)
        if found == "nothing":
            await asyncio.sleep(3600)
        return found

    with Endpoint(rule) as endpoint:
        assert all_right(ask(engine(endpoint, timeout_s=1), 4), 4)
        assert min(endpoint.times().values()) == 2


def test_where_n_is_ignored_all_samples_come_and_are_counted():
    with Endpoint(lambda body, endpoint: Reply(body=completion(body, 1))) as endpoint:
        answers = ask(engine(endpoint), 5, samples=4)
        assert all_right(answers, 5, samples=4)
        assert len(endpoint.asked) == 20
    for i, answer in answers.items():
        assert answer.prompt_tokens == 4 * tokens_of(prompt(i)[0]["content"])
        assert answer.tokens == sum(map(tokens_of, expected(i, 4)))


def test_samples_are_told_apart_by_their_index_and_share_the_tokens_of_their_answer():
    with Endpoint() as endpoint:
        answers = ask(engine(endpoint), 20, samples=4)
        assert all_right(answers, 20, samples=4)
        assert len(endpoint.asked) == 20
    for i, answer in answers.items():
        assert answer.prompt_tokens == tokens_of(prompt(i)[0]["content"])
        assert answer.tokens == sum(map(tokens_of, expected(i, 4)))


def test_shares_add_up_and_follow_the_lengths():
    assert shares_of(10, [49, 49]) == [5, 5]
    assert shares_of(0, [3, 4]) == [0, 0]
    draw = random.Random(0)
    for _ in range(500):
        lengths = [draw.randrange(200) for _ in range(draw.randint(1, 8))]
        shares = shares_of(total := draw.randrange(1000), lengths)
        assert sum(shares) == total
        assert all(
            abs(s - total * (n + 1) / (sum(lengths) + len(lengths))) <= 1 for s, n in zip(shares, lengths, strict=True)
        )


# --- Log probabilities of the first token -----------------------------------------------------------------------------

LIKELY = SAMPLING.model_copy(update={"top_logprobs": 3})


def firsts(answers):
    return {i: [generation.first for generation in answer.generations] for i, answer in answers.items()}


def test_log_probabilities_of_the_first_token_come_with_each_sample():
    with Endpoint() as endpoint:
        answers = ask(engine(endpoint), 10, samples=2, sampling=LIKELY)
        assert all_right(answers, 10, samples=2)
        assert {(body["logprobs"], body["top_logprobs"]) for body in endpoint.asked} == {(True, 3)}
    assert firsts(answers) == {i: [dict([*likely_first(t).items()][:3]) for t in expected(i, 2)] for i in range(10)}


def test_they_are_not_asked_for_unless_wanted():
    with Endpoint() as endpoint:
        answers = ask(engine(endpoint), 2)
        assert not any("logprobs" in body or "top_logprobs" in body for body in endpoint.asked)
    assert firsts(answers) == {0: [None], 1: [None]}


def test_tokens_of_one_text_count_together():
    tree = [{"token": token, "logprob": logprob} for token, logprob in (("A", -1.0), ("B", -2.0), ("A", -3.0))]

    def rule(body, endpoint):
        reply = completion(body)
        reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = tree
        return Reply(body=reply)

    with Endpoint(rule) as endpoint:
        (((first,)),) = firsts(ask(engine(endpoint), 1, sampling=LIKELY)).values()
    assert first == {"A": pytest.approx(math.log(math.exp(-1) + math.exp(-3))), "B": -2.0}


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"content": None},
        {"content": []},
        {"content": [{"token": "A", "logprob": -1.0, "top_logprobs": []}]},
        {"tokens": ["A"], "top_logprobs": [{"A": -1.0}]},  # as completions that are no chats have them
        [-1.0],
    ],
)
def test_an_endpoint_need_not_give_them(given):
    def rule(body, endpoint):
        reply = completion(body)
        reply["choices"][0]["logprobs"] = given
        return Reply(body=reply)

    with Endpoint(rule) as endpoint:
        answers = ask(engine(endpoint), 3, sampling=LIKELY)
        assert all_right(answers, 3)
        assert len(endpoint.asked) == 3
    assert firsts(answers) == {i: [None] for i in range(3)}


@pytest.mark.parametrize(
    "refusal",
    [
        error(403, "You are not allowed to request logprobs from this model"),
        error(400, "This model does not support the 'logprobs' parameter."),
        error(422, "top_logprobs: must be at most 2"),
    ],
)
def test_an_endpoint_that_refuses_them_is_asked_without(refusal):
    with Endpoint(lambda body, endpoint: refusal if "logprobs" in body else None) as endpoint:
        client = engine(endpoint)
        answers = ask(client, 100, sampling=LIKELY)
        assert all_right(answers, 100)
        assert sum("logprobs" in body for body in endpoint.asked) <= 8  # those that were under way
        assert len(endpoint.whole) == 100
        ask(client, 5, sampling=LIKELY)
        assert not any("logprobs" in body for body in endpoint.asked[-5:])
    assert set(map(str, firsts(answers).values())) == {"[None]"}


# --- How many at once -------------------------------------------------------------------------------------------------


def requests(window, *outcomes):
    """Requests one after another; True: it was refused."""

    async def run():
        for refused in outcomes:
            begun = await window.enter()
            if refused:
                window.record_refusal(begun, 0)
            else:
                window.record_success()
            window.leave()

    asyncio.run(run())


def test_the_window_doubles_while_all_goes_well():
    window = Window(100)
    assert window.size == 8
    requests(window, *[False] * 8)
    assert window.size == 16
    requests(window, *[False] * 1000)
    assert window.size == 100


def test_a_burst_of_refusals_halves_the_window_once_and_then_it_grows_by_one():
    window = Window(100)
    requests(window, *[False] * 24)
    begun = time.monotonic()  # of all 32, that are refused together
    for _ in range(32):
        window.record_refusal(begun, 0)
    assert window.size == 16
    requests(window, *[False] * 17)
    assert window.size == 17


def test_the_window_is_never_smaller_than_one():
    window = Window(100)
    requests(window, *[True] * 200)
    assert window.size == 1


def test_one_refusal_in_ten_whatever_one_does_is_borne():
    draw, window, sizes = random.Random(0), Window(256), []
    for _ in range(200):
        requests(window, *[draw.random() < 0.1 for _ in range(100)])
        sizes.append(window.size)
    assert sizes[-1] > 128
    assert min(sizes[10:]) > 32


def test_after_an_outage_the_window_is_soon_what_it_was():
    window = Window(64)
    requests(window, *[False] * 100, *[True] * 100)
    assert window.size == 1
    requests(window, *[False] * 32)
    assert window.size >= 32


def test_no_more_are_under_way_than_the_window_says_also_of_those_tried_again():
    async def run():
        window = Window(100)
        entering = [asyncio.create_task(window.enter()) for _ in range(20)]
        assert await settled(entering) == 8
        for _ in range(4):  # refused
            window.record_refusal(time.monotonic(), 0)
        assert window.size == 4
        for _ in range(5):
            window.leave()
        assert await settled(entering) == 8 + 1
        entering[9].cancel()  # the next in the queue
        window.leave()
        assert await settled(entering) == 8 + 2 + 1  # the cancelled one counts as done
        for task in entering:
            task.cancel()

    async def settled(tasks):
        for _ in range(5):
            await asyncio.sleep(0)
        return sum(task.done() for task in tasks)

    asyncio.run(run())


def test_nothing_is_asked_before_the_time_that_the_endpoint_gave(monkeypatch):
    now = 1000.0

    async def sleep(seconds):
        nonlocal now
        now += seconds

    async def run():
        monkeypatch.setattr(time, "monotonic", lambda: now)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        window = Window(10)
        for wait_s in (7, 3, 0):  # what is asked for later does not shorten it
            window.record_refusal(now, wait_s)
        assert await window.enter() == 1007
        monkeypatch.undo()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7", 7),
        ("0.25", 0.25),
        ("-1", 0),
        ("nan", 0),
        (formatdate(0, usegmt=True), 0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date_gone_by(given, seconds):
    assert retry_after(response_with(given)) == seconds


def test_retry_after_may_be_a_date_to_come():
    assert retry_after(response_with(formatdate(time.time() + 1e6, usegmt=True))) == pytest.approx(1e6, abs=600)


def response_with(given):
    class Refused:
        class response:  # noqa: N801
            headers = {} if given is None else {"retry-after": given}

    return Refused


def test_delays_grow_also_where_the_endpoint_gives_short_ones():
    assert 0.25 <= _delay(1, None) <= 0.5
    assert 30 <= _delay(10**6, None) <= 60
    assert [_delay(tries, 0.01) for tries in (1, 2)] == [0.01, 0.01]
    assert _delay(10, 0.01) >= 30
    assert _delay(1, 20) == _delay(3, 20) == 20
    assert _delay(1, 86400) == _delay(1, float("inf")) == 60


def test_retry_after_reaches_the_window(monkeypatch):
    told, record_refusal = [], Window.record_refusal
    monkeypatch.setattr(
        Window, "record_refusal", lambda self, started, s: (told.append(s), record_refusal(self, started, s))
    )
    replies = iter([error(429, "", retry_after="0.03"), error(503, ""), error(500, "", retry_after="0.01")])
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.002)
    with Endpoint(lambda body, endpoint: next(replies, None)) as endpoint:
        assert all_right(ask(engine(endpoint), 1), 1)
        assert len(endpoint.asked) == 4
    assert told == [0.03, 0]


class SimulatedTime(asyncio.SelectorEventLoop):
    """A loop in which nobody waits: where all sleep, the clock goes on to when the first one wakes."""

    now = 1000.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = self._scheduled[0].when()
        super()._run_once()


@pytest.mark.parametrize("limit", [1, 4, 16, 64])
def test_an_endpoint_that_bears_only_so_many_is_asked_by_about_so_many(monkeypatch, limit):
    """2000 answers that take five seconds, refusals that take 0.05; simulated."""
    draw, window, sizes, serving = random.Random(0), Window(256), [], 0

    async def answered():
        nonlocal serving
        while True:
            begun = await window.enter()
            if serving < limit:
                serving += 1
                await asyncio.sleep(draw.uniform(2.5, 7.5))
                serving -= 1
                window.record_success()
                window.leave()
                return sizes.append(window.size)
            await asyncio.sleep(0.05)
            window.leave()
            window.record_refusal(begun, 0)
            await asyncio.sleep(draw.uniform(0.25, 0.5))

    async def run():
        begun, tasks = time.monotonic(), set()
        for _ in range(2000):
            while len(tasks) >= window.size:
                _, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            tasks.add(asyncio.create_task(answered()))
        await asyncio.wait(tasks)
        return time.monotonic() - begun

    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        monkeypatch.setattr(time, "monotonic", runner.get_loop().time)
        took_s = runner.run(run())
        monkeypatch.undo()
    assert limit / 2 <= min(sizes[500:])
    assert max(sizes[500:]) <= 2 * limit + 2
    assert took_s < 1.5 * 2000 * 5 / limit  # two thirds of what it bears are used, with the first and the last answers


@pytest.mark.parametrize("limit", [1, 6])
def test_an_endpoint_that_refuses_all_beyond_its_limit_answers_all_in_the_end(monkeypatch, limit):
    async def rule(body, endpoint):
        if endpoint.under_way > limit:
            return error(429, "too many at once")
        await asyncio.sleep(0.01)
        return None

    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.01)
    with Endpoint(rule) as endpoint:
        assert all_right(ask(engine(endpoint), 100), 100)
        assert set(Counter(map(number, endpoint.whole)).values()) == {1}


def test_a_request_refused_more_often_than_it_is_tried_is_answered_while_others_are(hurried):
    refusals = 0

    async def rule(body, endpoint):
        nonlocal refusals
        if number(body) or refusals == 12:
            return None
        others = len(endpoint.asked)
        while len(endpoint.asked) < min(others + 3, 400):  # each one more came after an answer
            await asyncio.sleep(0.001)
        refusals += 1
        return error(429, "slow down")

    with Endpoint(rule) as endpoint:
        assert all_right(ask(engine(endpoint, max_concurrency=8), 400), 400)
        assert endpoint.times()["Question 0 of many"] == 13


# --- What ends it -----------------------------------------------------------------------------------------------------

FINAL = [
    (error(401, f"Incorrect API key provided: {KEY}. Find yours at …"), r"\(401\).*correct the key in OPENAI_API_KEY"),
    (error(401, "x" * 270 + KEY), r"correct the key in OPENAI_API_KEY"),
    (error(403, f"{KEY} has no access"), r"\(403\).*the key in OPENAI_API_KEY may not use it"),
    (error(404, "no such model"), r"\(404\): .*no such model.*generation\.openai\.model = teacher"),
    (error(429, "You exceeded your quota", "insufficient_quota"), r"\(429\).*quota is used up"),
    (error(400, "'stop': array too long. At most 4"), r"\(400\).*array too long"),
]


@pytest.mark.parametrize(("reply", "message"), FINAL)
def test_what_will_not_pass_ends_it_at_once_without_the_key(reply, message):
    with Endpoint(lambda body, endpoint: reply) as endpoint:
        client = engine(endpoint)
        with pytest.raises(InputError, match=message) as raised:
            ask(client, 1000)
        assert len(endpoint.asked) <= 8 + 1  # one short prompt, to tell if the others are at fault
    assert KEY not in in_full(raised)
    assert KEY[:8] not in in_full(raised)


@pytest.mark.parametrize(("reply", "message"), [FINAL[0], FINAL[2], FINAL[4]])
def test_what_will_not_pass_is_found_before_any_prompt(reply, message):
    with Endpoint(models=reply) as endpoint, pytest.raises(InputError, match=message) as raised:
        engine(endpoint)
    assert KEY not in in_full(raised)


def test_the_key_is_sent_and_what_cannot_be_one_is_said(monkeypatch):
    with Endpoint() as endpoint:
        monkeypatch.setenv("OTHER_KEY", f"{KEY}\n")
        ask(engine(endpoint, key_variable="OTHER_KEY"), 1)
        assert {headers["authorization"] for headers in endpoint.headers} == {f"Bearer {KEY}"}
        monkeypatch.setenv("OTHER_KEY", f"{KEY}\u200b")
        with pytest.raises(InputError, match="OTHER_KEY is no key") as raised:
            engine(endpoint, key_variable="OTHER_KEY")
        assert KEY not in in_full(raised)
        monkeypatch.delenv("OTHER_KEY")
        ask(engine(endpoint, key_variable="OTHER_KEY"), 1)  # a server of one's own wants none
    with pytest.raises(InputError, match=r"OTHER_KEY is not set: .*api\.openai\.com"):
        OpenAIEngine(OpenAI(model=MODEL, key_variable="OTHER_KEY"))


def test_an_unknown_model_is_named_with_those_that_are_known():
    said = r"generation\.openai\.model = teacher: .* known are nurse, tutor"
    with Endpoint(models=["tutor", "nurse"]) as endpoint, pytest.raises(InputError, match=said):
        engine(endpoint)
    with Endpoint(models=["models/teacher"]) as endpoint:  # as Gemini's endpoint lists those that it calls by the rest
        assert all_right(ask(engine(endpoint), 1), 1)


@pytest.mark.parametrize(
    "models",
    [
        error(404, "Not Found"),
        Reply(405, {"detail": "Method Not Allowed"}),
        error(403, "You have insufficient permissions. Missing scopes: api.model.read."),
        Reply(body=[{"id": MODEL}]),
        Reply(body={"data": None}),
        Reply(body={"object": "list", "data": [{"name": "of another form"}, 7]}),
    ],
)
def test_an_endpoint_need_not_list_its_models(models):
    with Endpoint(models=models) as endpoint:
        assert all_right(ask(engine(endpoint), 2), 2)


def test_errors_name_the_settings_that_the_endpoint_comes_from():
    with Endpoint(models=["tutor"]) as endpoint:
        with pytest.raises(InputError, match=r"judge\.openai\.model = teacher: not known there"):
            OpenAIEngine(settings(endpoint), "judge.openai")
        closed = settings(endpoint)
    with pytest.raises(InputError, match=r"judge\.openai\.base_url = http"):
        OpenAIEngine(closed, "judge.openai")


def test_an_address_with_nothing_or_something_else_behind_it_is_named():
    with Endpoint(models=Reply(200, "<html>Welcome to nginx!</html>")) as endpoint:
        with pytest.raises(InputError, match=r"generation\.openai\.base_url = http.*usually ends in /v1"):
            engine(endpoint)
        closed = settings(endpoint)
        without_v1 = settings(endpoint, base_url=endpoint.url.removesuffix("/v1"))
        with pytest.raises(InputError, match=r"\(404\).*base_url right\? It usually ends in /v1"):
            ask(OpenAIEngine(without_v1), 1)
    with pytest.raises(InputError, match=r"base_url = http.*cannot be reached.*start the server"):
        OpenAIEngine(closed)


def without_usage(body, usage=None):
    return Reply(body={**completion(body), "usage": usage})


def test_an_endpoint_that_never_tells_tokens_is_refused_and_one_that_forgets_is_asked_again(hurried):
    with Endpoint(lambda body, endpoint: without_usage(body)) as endpoint:
        with pytest.raises(InputError, match="does not say how many tokens"):
            ask(engine(endpoint), 100)
        assert len(endpoint.asked) <= 8
    forgetful = lambda body, endpoint: without_usage(body) if len(endpoint.asked) == 30 else None  # noqa: E731
    with Endpoint(forgetful) as endpoint:
        assert all_right(ask(engine(endpoint), 40), 40)
        assert len(endpoint.asked) == 41


@pytest.mark.parametrize("reply", [error(500, "oops"), error(429, "slow down"), Reply(body={"choices": []})])
def test_when_it_stays_down_all_that_came_before_is_kept(hurried, reply):
    with Endpoint(lambda body, endpoint: reply if len(endpoint.asked) > 50 else None) as endpoint:
        answers = {}
        with pytest.raises(Unavailable, match="did not answer in 3 tries, the last time: ") as raised:
            for i, answer in engine(endpoint).generate(prompts(200), SAMPLING, 1, seeds(200)):
                answers[i] = texts(answer)
        assert KEY not in in_full(raised)
        assert answers == {i: expected(i) for i in map(number, endpoint.asked[:50])}


def test_a_server_that_goes_away_is_unavailable(hurried):
    with Endpoint() as endpoint:
        answers = engine(endpoint).generate(prompts(2000), SAMPLING, 1, seeds(2000))
        next(answers)
    with pytest.raises(Unavailable, match="Connection error"):
        list(answers)


# --- Prompts that are never answered ----------------------------------------------------------------------------------


def filtered(body):
    tree = completion(body)
    tree["choices"][0].update(finish_reason="content_filter", message={"role": "assistant", "content": None})
    return tree


def refused(body):
    tree = completion(body)
    tree["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    return tree


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (lambda body: Reply(body=filtered(body)), ""),
        (lambda body: Reply(body=refused(body)), "I cannot help with that."),
        (lambda body: error(400, "The response was filtered", "content_filter"), ""),
        (lambda body: error(400, "… triggering Azure OpenAI's content management policy."), ""),
    ],
)
def test_a_content_filter_is_recorded_and_not_asked_again(reply, text):
    with Endpoint(lambda body, endpoint: reply(body) if number(body) % 5 == 0 else None) as endpoint:
        answers = ask(engine(endpoint), 20)
        assert set(endpoint.times().values()) == {1}
    for i, answer in answers.items():
        (generation,) = answer.generations
        assert generation.finish_reason == ("stop" if i % 5 else "content_filter")
        assert generation.text == (expected(i)[0] if i % 5 else text)


def test_one_filtered_sample_of_four_leaves_the_others():
    with Endpoint(lambda body, endpoint: Reply(body=filtered(body))) as endpoint:
        (answer,) = ask(engine(endpoint), 1, samples=4).values()
    assert [generation.finish_reason for generation in answer.generations] == ["stop"] * 3 + ["content_filter"]
    assert texts(answer) == [*expected(0, 3), ""]


TOO_LONG = [
    error(
        400,
        "This model's maximum context length is 2048 tokens. However, you requested 4096",
        "context_length_exceeded",
    ),
    error(400, "The decoder prompt (length 300) is longer than the maximum model length of 256."),
    error(400, "the request exceeds the available context size", "exceed_context_size_error"),
    error(413, "Request too large for this model"),
    error(
        429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000", "rate_limit_exceeded"
    ),
]


@pytest.mark.parametrize("reply", TOO_LONG)
def test_a_prompt_too_long_is_recorded_and_not_asked_again(reply):
    with Endpoint(lambda body, endpoint: None if number(body) % 5 else reply) as endpoint:
        answers = ask(engine(endpoint), 200, samples=2)
        assert set(endpoint.times().values()) == {1}
    for i, answer in answers.items():
        assert [g.finish_reason for g in answer.generations] == ["stop" if i % 5 else "too_long"] * 2


def test_where_every_prompt_is_too_long_it_is_the_settings():
    with Endpoint(lambda body, endpoint: TOO_LONG[0]) as endpoint:
        with pytest.raises(InputError, match=r"no prompt fits its context; lower instructions\.seed_shots"):
            ask(engine(endpoint), 1000)
        assert len(endpoint.asked) < 150


# --- What is asked ----------------------------------------------------------------------------------------------------


def test_every_setting_is_sent_as_it_is():
    sampling = Sampling(
        temperature=0.7,
        top_p=0.8,
        presence_penalty=1.25,
        frequency_penalty=-0.5,
        max_tokens=77,
        stop=("</instruction>", "\n\n"),
    )
    with Endpoint() as endpoint:
        ask(engine(endpoint), 2, samples=3, sampling=sampling)
        asked = sorted(endpoint.asked, key=number)
    assert asked[1] == {
        "model": MODEL,
        "messages": prompt(1),
        "n": 3,
        "seed": 100,
        "temperature": 0.7,
        "top_p": 0.8,
        "presence_penalty": 1.25,
        "frequency_penalty": -0.5,
        "max_completion_tokens": 77,
        "stop": ["</instruction>", "\n\n"],
    }


def test_a_repetition_penalty_is_for_vllm_alone():
    penalised = Sampling(repetition_penalty=1.5)
    with Endpoint() as endpoint:
        with pytest.raises(InputError, match=r"sampling\.repetition_penalty = 1\.5: the OpenAI API has none"):
            ask(engine(endpoint), 1, sampling=penalised)
        assert not endpoint.asked
    with Endpoint(owned_by="vllm") as endpoint:
        ask(engine(endpoint), 1, sampling=penalised)
        ask(engine(endpoint), 1)
        assert [body.get("repetition_penalty") for body in endpoint.asked] == [1.5, 1]  # its default is the model's


def test_prompts_that_are_done_are_not_asked():
    with Endpoint() as endpoint:
        answers = dict(engine(endpoint).generate(prompts(10), SAMPLING, 1, seeds(10), done={0, 3, 9}))
        assert sorted(answers) == sorted(map(number, endpoint.asked)) == [1, 2, 4, 5, 6, 7, 8]


def test_an_engine_whose_answers_were_given_up_can_be_asked_again():
    """Also where requests waited for their turn."""
    refuse = error(429, "slow down", retry_after="0.001")

    async def rule(body, endpoint):
        await asyncio.sleep(0.001)
        return refuse if 20 < len(endpoint.asked) < 60 else None

    with Endpoint(rule) as endpoint:
        client = engine(endpoint)
        for _ in range(10):
            next(answers := client.generate(prompts(200), SAMPLING, 1, seeds(200)))
            answers.close()
        assert all_right(ask(client, 200), 200)


# --- With the journal -------------------------------------------------------------------------------------------------


def with_journal(server, journal, **limits):
    return JournaledEngine(lambda: engine(server), journal, **limits)


def ask_all(engine, n):
    return [texts(answer) for answer in engine.generate(prompts(n), SAMPLING, 1, seeds(n))]


def entries(folder):
    with closing(FileJournal(folder)) as journal:
        return journal.entries()


class Full(FileJournal):
    """A journal whose disk is full after 40 answers."""

    def add(self, entry, usage):
        if len(self.entries()) == 40:
            raise OSError("no space left on device")
        super().add(entry, usage)


def test_after_a_journal_that_failed_only_what_is_missing_is_asked_for(tmp_path):
    with Endpoint() as endpoint:
        with closing(Full(tmp_path)) as journal, pytest.raises(OSError, match="no space"):
            ask_all(with_journal(endpoint, journal), 200)
        before = {entry["generations"][0]["text"] for entry in entries(tmp_path)}
        with closing(FileJournal(tmp_path)) as journal:
            again = with_journal(endpoint, journal)
            assert ask_all(again, 200) == [expected(i) for i in range(200)]
        kept = [i for i in range(200) if expected(i)[0] in before]
        assert len(kept) == len(before) == 40
        assert {endpoint.times()[prompt(i)[0]["content"]] for i in kept} == {1}
    assert again.usage["prompts"] == len(entries(tmp_path)) == 200


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_openai_engine import *

class Server:
    url = sys.argv[2]

ask_all(with_journal(Server, FileJournal(Path(sys.argv[3]))), 200)
"""


def test_after_a_kill_only_what_is_missing_is_asked_for(tmp_path):
    under_way, released = threading.Event(), threading.Event()

    async def rule(body, endpoint):
        if len(endpoint.asked) > 120:  # of 200: the others are under way when it is killed
            under_way.set()
            while not released.is_set():
                await asyncio.sleep(0.01)

    with Endpoint(rule) as endpoint:
        child = subprocess.Popen([sys.executable, "-c", CHILD, Path(__file__).parent, endpoint.url, tmp_path])
        try:
            while not under_way.wait(0.2):
                assert child.poll() is None, "it has ended by itself"
        finally:
            child.kill()
            child.wait()
        released.set()
        before = Counter(map(number, endpoint.asked))
        journaled = {entry["generations"][0]["text"] for entry in entries(tmp_path)}
        with closing(FileJournal(tmp_path)) as journal:
            assert ask_all(with_journal(endpoint, journal), 200) == [expected(i) for i in range(200)]
        again = Counter(map(number, endpoint.asked)) - before
    kept = {i for i in range(200) if expected(i)[0] in journaled}
    assert 50 < len(kept) == len(journaled) <= 120
    assert set(before) - kept  # some were under way
    assert again == {i: 1 for i in range(200) if i not in kept}


@pytest.mark.parametrize("limits", [{"tokens": 2000}, {"usd": 0.01}])
def test_a_budget_begins_no_more_and_keeps_those_under_way(tmp_path, limits):
    price = Price(input=1, output=10)  # 5 tokens read and about 8 written: 85e-6 dollars
    with Endpoint() as endpoint, closing(FileJournal(tmp_path)) as journal:
        limited = with_journal(endpoint, journal, price=price, limits=limits)
        with pytest.raises(BudgetReached):
            ask_all(limited, 1000)
        assert sorted(map(number, endpoint.asked)) == list(range(len(journal.entries())))
    (name, limit), used = next(iter(limits.items())), limited.usage
    spent = used["usd"] if name == "usd" else used["prompt_tokens"] + used["completion_tokens"]
    assert limit <= spent < 1.2 * limit
