"""Estimate the cost of a judge before it is asked: the verdicts to come, their tokens and the price.

The lengths of texts are assumptions, since most texts are not generated yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from montessori.artifacts import Request, Store
from montessori.budget import dollars, price_of
from montessori.settings.suite import Suite

QUESTIONS = {"alpaca_eval": 805, "mt_bench": 80}  # in the hub's files
Counts = Mapping[str, int]  # questions in local files, by alpaca_eval, mt_bench and people
ANSWER, QUESTION, WORDING = 350, 60, 180  # tokens. GPT-4-turbo's answers in AlpacaEval have 350 to 500
GRADE = 150  # tokens of a grade with its reason


@dataclass(frozen=True)
class Cost:
    """The verdicts that the judge still has to give."""

    verdicts: int
    read: int  # tokens of prompts
    written: int  # tokens of replies


def estimate(suite: Suite, requests: Sequence[Request], store: Store, counts: Counts) -> Cost:
    """Return the cost of the verdicts and grades that are not in the store."""
    verdicts = read = written = 0
    for request in requests:
        if request.stage not in ("verdicts", "grades") or store.exists(request.address):
            continue
        asked = _questions(suite, request, counts) / request.shard[1]
        if request.stage == "grades":
            count, tokens, reply = 2 * asked, WORDING + 1.5 * (QUESTION + ANSWER), GRADE
        else:
            count, tokens, reply = (
                asked * (1 + bool(request.settings["both_orders"])),
                WORDING + QUESTION + 2 * ANSWER,
                1,
            )
        verdicts += round(count)
        read += round(count * tokens)
        written += round(count * reply)
    return Cost(verdicts, read, written)


def describe(suite: Suite, requests: Sequence[Request], store: Store, counts: Counts) -> str:
    """Return a sentence with the judge, the number of verdicts and the price."""
    judge = suite.judge
    assert judge, "only a suite with a judge has this cost"
    cost = estimate(suite, requests, store, counts)
    name = judge.openai.model if judge.engine == "openai" else judge.source
    said = f"judge  {name} ({judge.engine}): "
    if not cost.verdicts:
        return said + "every verdict is in the store"
    said += f"about {cost.verdicts:,} verdicts, {cost.read:,} tokens read and {cost.written:,} written"
    price = price_of(judge.openai) if judge.engine == "openai" else None
    if price:
        said += f", ${dollars(price, cost.read, cost.written):,.2f}"
        if suite.budget.usd is None:
            said += "; --set budget.usd=… ends it at a limit"
    return said


def _questions(suite: Suite, request: Request, counts: Counts) -> int:
    """Return the number of questions of a request, over all of its shards."""
    kind = "mt_bench" if request.stage == "grades" else "alpaca_eval"
    if any(address.startswith("people/") for address in request.inputs.get("right", [])):
        kind = "people"
    if kind in counts:
        return counts[kind]
    asked = suite.mt_bench if kind == "mt_bench" else suite.alpaca_eval
    assert asked, "the suite has the benchmark of the request"
    return min(asked.questions.limit or QUESTIONS[kind], QUESTIONS[kind] - asked.questions.skip)
