"""Run tasks of lm-evaluation-harness item by item, so that they can be sharded and models compared in pairs.

Prompts, filters, metrics and averages are the harness's own. The loop over the items replaces
`lm_eval.evaluator.evaluate`, which runs all items or the first ones. The few-shot examples before an item are drawn one
item after the other, so a shard builds every prompt and asks only its own.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from montessori import progress
from montessori.data.rows import Row
from montessori.errors import InputError
from montessori.evaluation.card import Measure
from montessori.evaluation.harness_tasks import Task

LanguageModel = Any  # lm_eval.api.model.TemplateLM


@dataclass(frozen=True)
class Item:
    """An item of a task, with its requests to the model."""

    task: Task
    doc: int
    requests: Sequence[Any]  # lm_eval.api.instance.Instance: one for each choice, or one for a generation

    @property
    def id(self) -> str:
        """Return the item's id in the table of items."""
        return f"{self.task.task_name}/{self.doc}"

    @property
    def prompt(self) -> str:
        """Return the model's prompt. Where every choice has a prompt of its own, it is the first one's."""
        return str(self.requests[0].args[0])


def measure(
    lm: LanguageModel,
    tasks: Mapping[str, Task],
    metric: str,
    *,
    room: int,
    at_once: int,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> tuple[list[Row], dict[str, Any]]:
    """Return a row for each item of this shard, and a summary: `prompts_cut`, `too_long` and the first item, `example`.

    Items are left out as `too_long` when a choice, or the most tokens to generate, exceed the model's context. The
    harness cannot measure those.

    `room` is the number of tokens that the harness reads of a prompt with its choice, `at_once` the number of items
    that it gets at a time, and `limit` the number of items of each task.
    """
    asked_for = [question for task in tasks.values() for question in _questions(task, limit, shard)]
    questions = [question for question in asked_for if _fits(lm, question, room)]
    cut = {question.id for question in questions if _is_cut(lm, question)}
    by_length = sorted(questions, key=lambda question: -len(question.prompt))  # least padding
    progress.report(0, len(questions), "items")
    with _long_prompts(lm, room) as long:
        for start in range(0, len(by_length), at_once):
            asked = by_length[start : start + at_once]
            _ask(lm, asked)
            progress.report(start + len(asked), len(questions), "items", asked[-1].task.task_name)
    cut |= {question.id for question in questions if any(request.args[0] in long for request in question.requests)}
    rows = _rows(questions, metric)
    example = {"id": rows[0]["id"], "prompt": questions[0].prompt, "target": rows[0]["target"]} if rows else None
    return rows, {"prompts_cut": len(cut), "too_long": len(asked_for) - len(questions), "example": example}


def score(rows: Sequence[Row], metric: str) -> tuple[float, float, int, dict[str, Measure]]:
    """Return the mean, standard error and number of the items of all shards, and the measure of each task of a group.

    These are the harness's: of a group the mean over its items, and the pooled error of its tasks. When no task has two
    items, the error is that over all items. With a single item it is 0.
    """
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr

    values: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: (row["task"], row["doc"])):
        metrics = json.loads(row["values"])
        if metric not in metrics:
            raise InputError(f"metric = {metric}: item {row['id']} has {', '.join(metrics)}")
        values.setdefault(row["task"], []).append(metrics[metric])
    if not values:
        raise InputError(f"metric = {metric}: there are no items")
    tasks = {task.removeprefix("mmlu_"): _measure(own) for task, own in values.items()}
    whole = _measure([value for own in values.values() for value in own])
    if len(tasks) == 1:
        return whole.mean, whole.standard_error, whole.n, {}
    sizes = [task.n for task in tasks.values()]
    mean = float(aggregate_subtask_metrics([task.mean for task in tasks.values()], sizes))
    error = whole.standard_error
    if whole.n > len(tasks):
        error = float(pooled_sample_stderr([task.standard_error for task in tasks.values()], sizes))
    return mean, error, whole.n, tasks


def _measure(values: list[float]) -> Measure:
    from lm_eval.api.metrics import mean, mean_stderr

    return Measure(float(mean(values)), float(mean_stderr(values)) if len(values) > 1 else 0.0, len(values))


def _questions(task: Task, limit: int | None, shard: tuple[int, int]) -> list[Item]:
    index, count = shard
    task.build_all_requests(limit=limit)
    by_doc: dict[int, list[Any]] = {}
    for request in task.instances:
        if request.doc_id % count == index:
            by_doc.setdefault(request.doc_id, []).append(request)
    return [Item(task, doc, sorted(requests, key=lambda request: request.idx)) for doc, requests in by_doc.items()]


def _ask(lm: LanguageModel, questions: Sequence[Item]) -> None:
    """Put the model's answers into the requests of `questions`."""
    requests = [request for question in questions for request in question.requests for _ in range(request.repeats)]
    for kind in sorted({request.request_type for request in requests}):
        alike = [request for request in requests if request.request_type == kind]
        for request, answer in zip(alike, getattr(lm, kind)(alike, disable_tqdm=True), strict=True):
            request.resps.append(answer)


@contextmanager
def _long_prompts(lm: LanguageModel, room: int) -> Iterator[set[str]]:
    """Collect the prompts that exceed `room` tokens with a choice, from the tokens that the model gets."""
    prompts: set[str] = set()
    inner = lm._loglikelihood_tokens

    def read(requests: Sequence[Any], *args: Any, **options: Any) -> Any:
        for (prompt, _), prompt_ids, choice_ids in requests:
            if len(prompt_ids) + len(choice_ids) > room:
                prompts.add(prompt)
        return inner(requests, *args, **options)

    lm._loglikelihood_tokens = read
    try:
        yield prompts
    finally:
        del lm._loglikelihood_tokens  # the attribute of this object, which hid the method


def _fits(lm: LanguageModel, question: Item, room: int) -> bool:
    """Tell whether each choice, or the most tokens to generate, leaves room for a token of the prompt."""
    if (written := _max_generated(lm, question)) is not None:
        return bool(written < lm.max_length)
    # A token has at least one byte, so only choices of at least `room` bytes need tokenizing.
    long = [request.args for request in question.requests if len(request.args[1].encode()) >= room]
    return all(len(lm._encode_pair(*pair)[1]) < room for pair in long)


def _is_cut(lm: LanguageModel, question: Item) -> bool:
    """Tell whether the prompt of a generation is cut to leave room for the most tokens to generate."""
    written = _max_generated(lm, question)
    return written is not None and bool(len(lm.tok_encode(question.prompt)) > lm.max_length - written)


def _max_generated(lm: LanguageModel, question: Item) -> int | None:
    """Return the most tokens to generate, or None for a task with choices."""
    from lm_eval.models.utils import normalize_gen_kwargs

    request = question.requests[0]
    if request.request_type != "generate_until":
        return None
    return int(normalize_gen_kwargs(request.args[1], lm.max_gen_toks)["max_gen_toks"])


def _rows(questions: Sequence[Item], metric: str) -> list[Row]:
    for task in {question.task.task_name: question.task for question in questions}.values():
        asked = [question.requests for question in questions if question.task is task]
        task._instances = [request for requests in asked for request in requests]
        task.apply_filters()
    return [_row(question, metric) for question in questions]


def _row(question: Item, metric: str) -> Row:
    task, requests = question.task, question.requests
    doc = requests[0].doc
    values: dict[str, float] = {}
    for filter in requests[0].filtered_resps:
        results = task.process_results(doc, [request.filtered_resps[filter] for request in requests])
        numbers = {name: float(value) for name, value in results.items() if isinstance(value, int | float | np.number)}
        values |= {f"{name},{filter}": number for name, number in numbers.items()}
    alone, text, target = _text(task, doc)
    return {
        "task": task.task_name,
        "doc": question.doc,
        "id": question.id,
        "question": alone,
        "text": text,
        "target": target,
        "said": _said(question, metric),
        "values": json.dumps(values),
    }


def _text(task: Task, doc: Any) -> tuple[str, str, str]:
    """Return an item's question, the question with its choices and answer, and the answer."""
    prompt, target = task.doc_to_text(doc), task.doc_to_target(doc)
    choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else []
    if isinstance(prompt, int):  # the choices are the start, and the target is a common end
        whole, answers = f"{choices[prompt]} {target}", [prompt]
    else:
        whole, answers = str(prompt), target if isinstance(target, list) else [target]
    answer = ", ".join(str(choices[one] if choices and isinstance(one, int) else one) for one in answers)
    whole = re.sub(r"^\s*(question|q):\s*|\s*\n(answer|a):\s*$", "", whole, flags=re.IGNORECASE)
    question = next((doc[name] for name in ("question", "Item", "query") if isinstance(doc.get(name), str)), whole)
    texts = [whole]
    for text in (*choices, answer):
        if not any(text in before for before in texts):
            texts.append(text)
    return question, "\n".join(texts), answer


def _said(question: Item, metric: str) -> str:
    """Return the choice that `metric` takes for the model's, or the generated text."""
    task, requests = question.task, question.requests
    answers = [request.resps[0] for request in requests]
    if requests[0].request_type == "generate_until":
        return str(answers[0])
    if task.config.doc_to_choice is None:
        ((_, greedy),) = answers
        return str(requests[0].args[1]) if greedy else ""
    choices = task.doc_to_choice(requests[0].doc)
    lengths = {
        "acc_norm": [len(choice) for choice in choices],
        "acc_bytes": [len(choice.encode()) for choice in choices],
    }
    logs = np.array([log for log, _ in answers[: len(choices)]])
    return str(choices[int(np.argmax(logs / lengths.get(metric.partition(",")[0], [1] * len(choices))))])
