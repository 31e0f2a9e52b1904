"""An endpoint in the base teacher's place, for nights whose challenger is to be better or worse for certain.

A student learns from what the endpoint answers; the tuned teacher, weights that know a little, answers for itself.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from endpoint import Body, Endpoint, Reply


def learning_from(url: str) -> list[str]:
    """The changes of the micro settings with which students learn from the endpoint at `url`, as --set has them."""
    learning = ["training_size=96", "sft.learning_rate=5e-3", "sft.epochs=4", "influence.after=false"]
    writing = ["engine=openai", "tuned_engine=transformers", "openai.model=teacher", f"openai.base_url={url}"]
    return [*learning, *(f"generation.{change}" for change in writing)]


def answering(rows: Sequence[Mapping[str, Any]]) -> Callable[[Body, Endpoint], Reply]:
    """An endpoint that writes the instructions of `rows`, and answers each as its row does."""
    answers = {row["instruction"]: row["response"] for row in rows}

    def reply(body: Body, _: Endpoint) -> Reply:
        asked = body["messages"][-1]["content"]
        drawn = random.Random(f"{asked} {body['seed']}").sample(sorted(answers), body.get("n", 1))
        texts = [answers[asked]] if asked in answers else [f"<instruction>{text}</instruction>" for text in drawn]
        choices = [
            {"index": n, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            for n, text in enumerate(texts)
        ]
        usage = {
            "prompt_tokens": 100,
            "completion_tokens": 10 * body.get("n", 1),
            "total_tokens": 100 + 10 * body.get("n", 1),
        }
        tree = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": choices}
        return Reply(body={**tree, "usage": usage})

    return reply
