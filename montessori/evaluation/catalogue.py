"""The tasks of lm-evaluation-harness: found by name, checked against the settings, loaded with their data.

In: a task's or group's name, a metric, a number of shots, perhaps files in place of the hub's data.
Out: the harness's own task objects, ready for `harness.py`, and what a reader must know of them to trust a number.
"""

import difflib
import importlib.metadata
import inspect
import json
import logging
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from montessori.errors import InputError, StageError
from montessori.evaluation import local

SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "few-shot": 1234}  # those of the command line `lm_eval`
Task = Any  # lm_eval.api.task.Task


def find(name: str) -> tuple[Path, Mapping[str, Any]]:
    """The folder where the harness defines a task, and its index of that. Raises InputError where it has no such task.

    To index all of its 14,000 tasks takes ten seconds, one folder nearly none; most benchmarks are named after theirs.
    """
    import lm_eval.tasks

    tasks = Path(lm_eval.tasks.__file__).parent
    for folder in (tasks / name, tasks / name.partition("_")[0]):
        if re.fullmatch(r"\w+", name) and folder.is_dir():
            index = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder).task_index
            if _whole(name, index):
                return folder, index
    index = lm_eval.tasks.TaskManager().task_index
    if name not in index:
        near = difflib.get_close_matches(name, index, n=3)
        hint = f"; it has {', '.join(near)}" if near else ""
        raise InputError(f"task = {name}: lm-evaluation-harness has no such task{hint}")
    return tasks, index


def load(
    name: str, metric: str, shots: int, folder: Path, items: Path | None = None, examples: Path | None = None
) -> dict[str, Task]:
    """The task `name`, or the tasks of that group, by name, with `shots` examples before each item.

    Data is the hub's, or that of the files `items` and `examples`; these are copied into `folder`, which must stay as
    long as the tasks are used. Raises InputError when a setting or a file does not fit, StageError when the hub is out
    of reach.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import set_torch_seed

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every prompt that it cuts
    where, index = find(name)
    kind = index[name].kind.name
    if kind == "TAG" or (kind == "GROUP" and items and name != "mmlu"):
        members = ", ".join(map(str, sorted(index[name].tags) or index[name].cfg["task"]))
        raise InputError(f"task = {name}: a collection of tasks; name one of them: {members[:300]}")
    if kind == "GROUP":
        _check_group(name, metric, index[name].cfg)
    names = [name]
    if items:
        rows = local.read(items, name, "file")
        shown = local.read(examples, name, "shots_file") if examples else None
        if shots and not shown:
            raise InputError(f"shots_file is missing: {shots} examples are shown before each item of file")
        local.configure(index, rows, shown, folder)
        names = list(rows)
    random.seed(SEEDS["random"])  # some tasks shuffle the choices of an item as they load it
    np.random.seed(SEEDS["numpy"])
    set_torch_seed(SEEDS["torch"])
    tasks = _load(TaskManager(include_defaults=False, include_path=[where, folder]), name, names)
    for task in tasks.values():
        _check(task, metric)
        _show(task, shots)
    return tasks


def describe(tasks: Mapping[str, Task], from_files: bool) -> dict[str, Any]:
    """The harness's version, and of each task its version, its shots and its configuration, fit for JSON.

    Where data `from_files` lay is not in it.
    """
    told = {}
    for name, task in tasks.items():
        config = task.dump_config()
        hidden = {"metadata", "dataset_path", "dataset_kwargs"} if from_files else {"metadata"}
        config = {key: value for key, value in config.items() if key not in hidden}
        told[name] = {
            "version": task.VERSION,
            "shots": task.get_config("num_fewshot"),
            "config": json.loads(json.dumps(config, default=_source)),
        }
    return {"lm_eval": importlib.metadata.version("lm_eval"), "seeds": SEEDS, "tasks": told}


def _whole(name: str, index: Mapping[str, Any]) -> bool:
    """Whether a task, or all that a group consists of, is in the index."""
    entry = index.get(name)
    if entry is None or entry.kind.name != "GROUP":
        return entry is not None
    return all(isinstance(member, str) and _whole(member, index) for member in entry.cfg["task"])


def _load(manager: Any, name: str, names: list[str]) -> dict[str, Task]:
    from datasets.exceptions import DatasetsError

    try:
        tasks: dict[str, Task] = manager.load(names)["tasks"]
    except ConnectionError as error:
        raise StageError(
            f"task = {name}: the hub cannot be reached, and there is no local copy; `file` may name one ({error})"
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError, LookupError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"task = {name}: the harness cannot load it ({reason})") from error
    return tasks


def _check_group(name: str, metric: str, group: Mapping[str, Any]) -> None:
    """Raise InputError unless the harness averages the group over all of its items, as `harness.score` does."""
    from lm_eval.config.group import GroupConfig

    wanted = metric.partition(",")[0]
    averages = GroupConfig(name, aggregate_metric_list=group.get("aggregate_metric_list")).aggregate_metric_list or ()
    if [each.weight_by_size and each.aggregation == "mean" for each in averages if each.metric == wanted] != [True]:
        raise InputError(
            f"task = {name}: the harness has no mean of {wanted} over all items of this group; name one of its tasks"
        )


def _check(task: Task, metric: str) -> None:
    """Raise InputError unless the metric is one of the task and a mean over items, and text is all that it takes."""
    from lm_eval.api.metrics import mean

    name = task.task_name
    means = [each for each, function in task.aggregation().items() if function is mean]
    known = [f"{each},{filter.name}" for each in means for filter in task._filters]
    if metric not in known:
        raise InputError(f"metric = {metric}: {name} has {', '.join(known) or 'none that is a mean over items'}")
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(f"task = {name}: it runs code that the model writes, which is not done here")
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"task = {name}: it shows pictures or sound, and the models here read text")


def _show(task: Task, shots: int) -> None:
    """Set the number of examples, as `lm_eval.evaluator.simple_evaluate` does."""
    task.set_fewshot_seed(SEEDS["few-shot"])
    if task.get_config("num_fewshot") == 0:
        if shots:
            raise InputError(f"shots = {shots}: the harness shows no examples in {task.task_name}; set 0")
        return
    task.set_config("num_fewshot", shots)
    if shots:
        there = len(task.sampler.df)
        needed = shots + (task.fewshot_cfg.split == task.config.test_split)  # one more, if the item is among them
        if there < needed:
            raise InputError(f"shots = {shots}: {task.task_name} needs {needed} examples, and there are {there}")


def _source(value: Any) -> str:
    """A function of a task as its source."""
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return str(getattr(value, "__qualname__", type(value).__name__))
