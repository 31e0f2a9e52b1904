"""What a judge will cost, before it is asked: verdicts still to come, their tokens, and the price.

In: the plan.  Out: counts, and a sentence for the screen. Texts' lengths are assumed, since most are not written yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from montessori.artifacts import Request, Store
from montessori.budget import dollars, price_of
from montessori.settings.suite import Suite

QUESTIONS = {"alpaca_eval": 805, "mt_bench": 80}  # of the hub's
Counts = Mapping[str, int]  # of questions in files, by alpaca_eval, mt_bench and people
ANSWER, QUESTION, WORDING = 350, 60, 180  # tokens; GPT-4-turbo's answers in AlpacaEval have 350 to 500
GRADE = 150  # tokens of a grade with its reason


@dataclass(frozen=True)
class Cost:
    """What is still to be asked of the judge."""

    verdicts: int
    read: int  # tokens
    written: int


def expected(suite: Suite, requests: Sequence[Request], store: Store, counts: Counts) -> Cost:
    """What the store does not have yet of all verdicts and grades."""
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


def sentence(suite: Suite, requests: Sequence[Request], store: Store, counts: Counts) -> str:
    """Who judges, how much, and for how many dollars."""
    judge = suite.judge
    assert judge, "it is asked for where there is one"
    cost = expected(suite, requests, store, counts)
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
    """How many questions a request is about, all of its shards together."""
    kind = "mt_bench" if request.stage == "grades" else "alpaca_eval"
    if any(address.startswith("people/") for address in request.inputs.get("right", [])):
        kind = "people"
    if kind in counts:
        return counts[kind]
    asked = suite.mt_bench if kind == "mt_bench" else suite.alpaca_eval
    assert asked, "it is judged"
    return min(asked.questions.limit or QUESTIONS[kind], QUESTIONS[kind] - asked.questions.skip)
