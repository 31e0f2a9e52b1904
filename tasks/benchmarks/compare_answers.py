"""Compare two answers to each question by a judge: `verdicts.parquet` (`id, index, question, left, right, swapped, …`).

The inputs `right` and `left` are answers, joined by id. The input `baseline` replaces `left` with questions that bring
an output of their own, joined by the text of the question. A shard judges every n-th pair.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from montessori.data.rows import Row, write_rows
from montessori.errors import InputError, StageError
from montessori.evaluation import judging
from montessori.settings.generation import Sampling
from montessori.synthesis.instructions import stable_seed
from tasks.runtime.generation import JudgeSettings, open_engine
from tasks.runtime.job import Job


class Settings(JudgeSettings):
    """The judge, and the order of answers. A reply is a letter, or `max_tokens` long where no letter could be read."""

    both_orders: bool = False  # each pair twice; else in a random order


@dataclass(frozen=True)
class Pair:
    """Two answers to one question."""

    id: str
    index: int
    question: str
    left: str
    right: str


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Judge each pair of this shard, in one order or in both. Unreadable verdicts are None."""
    if settings.wording != judging.wording("verdicts"):
        raise StageError(judging.OTHER_WORDING)
    index, count = job.request.shard
    pairs, unmatched = _pairs(job)
    ordered = [
        (pair, swapped)
        for pair in pairs[index::count]
        for swapped in ((False, True) if settings.both_orders else (_is_swapped(job.seed, pair.id),))
    ]
    judge = open_engine(job, settings, "judge", "judge.")
    verdicts = judging.judge(
        judge,
        [_question(pair, swapped) for pair, swapped in ordered],
        Sampling(
            temperature=0,
            top_p=1,
            presence_penalty=0,
            max_tokens=min(settings.max_tokens, judging.LETTER_TOKENS),
            top_logprobs=judging.TOP_LOGPROBS,
        ),
        max_tokens=settings.max_tokens,
        seed=job.seed,
        tries=settings.tries,
        max_unreadable=settings.max_unreadable,
    )
    rows = [
        {
            **vars(pair),
            "swapped": swapped,
            "preference": verdict.value,
            "said": verdict.reply.text,
            "tries": verdict.tries,
        }
        for (pair, swapped), verdict in zip(ordered, verdicts, strict=True)
    ]
    write_rows(job.out / "verdicts.parquet", rows)
    shares = [sum(judging.letters(v.reply).values()) for v in verdicts if v.reply.first]
    return {
        "verdicts": len(rows),
        **judging.summary(verdicts),
        "unmatched": len(unmatched[index::count]),
        "letters": round(fmean(shares), 6) if shares else None,  # of the first token's probability: low means a guess
        **judge.summary(),
        "usage": judge.usage,
    }


def _is_swapped(seed: int, id: str) -> bool:
    return stable_seed(f"{seed}-{id}-order") % 2 == 1


def _question(pair: Pair, swapped: bool) -> judging.Question:
    chat = judging.comparison(pair.question, pair.left, pair.right, swapped)
    return judging.Question(f"{pair.id}-{int(swapped)}", chat, lambda reply: judging.preference(reply, swapped))


def _pairs(job: Job) -> tuple[list[Pair], list[str]]:
    """Return the pairs in the questions' order, and the keys of unmatched answers. Raises InputError without a pair."""
    rights = job.rows("right", "answers.parquet")
    if job.has("baseline"):
        questions = job.rows("baseline", "questions.parquet")
        if any(row.get("baseline") is None for row in questions):
            raise InputError("baseline: these questions bring no output to compare with, as AlpacaEval's do")
        left = _keyed([{**row, "answers": [row["baseline"]]} for row in questions], _text)
        right = _keyed(rights, _text)
    else:
        left, right = _keyed(job.rows("left", "answers.parquet"), _id), _keyed(rights, _id)
    pairs = [
        Pair(row["id"], row["index"], row["turns"][0], left[key]["answers"][0], row["answers"][0])
        for key, row in right.items()
        if key in left
    ]
    if not pairs:
        raise InputError("right: none of its answers is to a question that is answered on the left")
    return pairs, sorted(left.keys() ^ right.keys())


def _id(row: Row) -> str:
    return str(row["id"])


def _text(row: Row) -> str:
    return str(row["turns"][0]).strip()


def _keyed(rows: list[Row], key: Callable[[Row], str]) -> dict[str, Row]:
    """Return `rows` by key, in the questions' order. A repeated key gets its number as a suffix."""
    by_key, seen = {}, Counter[str]()
    for row in sorted(rows, key=lambda row: row["index"]):
        if len(row["turns"]) != 1:
            raise InputError(f"question {row['id']} has {len(row['turns'])} turns; answers are compared to one alone")
        seen[key(row)] += 1
        by_key[key(row) if seen[key(row)] == 1 else f"{key(row)} {seen[key(row)]}"] = row
    return by_key
