"""Find, check and load the tasks of lm-evaluation-harness.

`load` returns the harness's own task objects for `harness.py`. `check` finds wrong settings beforehand, from the
harness's configurations alone. Errors name the benchmark's settings `field`.
"""

import difflib
import importlib.metadata
import inspect
import json
import logging
import random
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from montessori.errors import InputError, StageError
from montessori.evaluation import harness_data
from montessori.settings.suite import Benchmark

HUB_TIMEOUT_S = 10
SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "few-shot": 1234}  # as the command line `lm_eval` sets them
Task = Any  # lm_eval.api.task.Task


def find(name: str, field: str) -> tuple[Path, Mapping[str, Any]]:
    """Return the folder where the harness defines a task, and the index of that folder.

    The index of all 14,000 tasks takes ten seconds, that of one folder nearly none. Most tasks have a folder of their
    name. Raises InputError when the harness has no such task.
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
        raise InputError(f"{field}.task = {name}: lm-evaluation-harness has no such task{hint}")
    return tasks, index


def check(
    asked: Benchmark, field: str, items: harness_data.Rows | None, examples: harness_data.Rows | None
) -> set[str]:
    """Raise InputError as `load` does, as far as the configurations tell. This loads neither data nor torch.

    `items` and `examples` are the rows of the benchmark's files. Returns the hub datasets that the benchmark needs.
    """
    _, index = find(asked.task, field)
    _check_kind(index[asked.task], asked.metric, field, bool(items))
    needed = set()
    for name in items or sorted(_members(asked.task, index)):
        config = index[name].cfg
        if items:
            harness_data.splits(index[name], items, examples, field)
        if "class" in config:  # code of the task, which only `load` runs
            continue
        if (known := _means(config)) is not None:
            unsafe, multimodal = config.get("unsafe_code"), config.get("doc_to_image") or config.get("doc_to_audio")
            _check(name, asked.metric, known, unsafe=bool(unsafe), multimodal=bool(multimodal), field=field)
        shown = config.get("fewshot_config") or {}
        there = len(examples[name]) if items and examples and "samples" not in shown else None
        among = (shown.get("split") or config.get("fewshot_split")) == config.get("test_split")
        _check_shots(name, asked.shots, own=config.get("num_fewshot"), there=there, among=among, field=field)
        elsewhere = items or config.get("custom_dataset") or (config.get("dataset_kwargs") or {}).get("data_files")
        if not elsewhere and "dataset_path" in config:
            needed.add(config["dataset_path"])
    return needed


def check_hub(needed: Mapping[str, Collection[str]]) -> None:
    """Raise InputError when the hub cannot be reached and a needed dataset has no local copy.

    `needed` holds the datasets of each benchmark, by its field. Asks the hub once. A dataset that the hub does not have
    is left to `load`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    unreachable = cast(type[Exception], HfHubHTTPError.__bases__[0])  # the error of the client's HTTP library
    missing = {field: name for field, names in needed.items() for name in names if not _copied(name)}
    if not missing:
        return
    try:
        HfApi().dataset_info(next(iter(missing.values())), timeout=HUB_TIMEOUT_S)
    except HfHubHTTPError:
        pass
    except (OSError, unreachable) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{', '.join(missing)}: the hub cannot be reached for the data ({reason}), and there is no local copy; "
            "benchmarks.NAME.file can name a file of one's own"
        ) from None


def load(
    name: str,
    *,
    metric: str,
    shots: int,
    folder: Path,
    field: str,
    items: Path | None = None,
    examples: Path | None = None,
) -> dict[str, Task]:
    """Return the task `name`, or the tasks of the group `name`, by name, with `shots` examples before each item.

    The data is the hub's, or that of the files `items` and `examples`, which are copied into `folder`. The folder must
    stay as long as the tasks are used. Raises InputError when a setting or a file does not fit, StageError when the hub
    cannot be reached.
    """
    from lm_eval.api.metrics import mean
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import set_torch_seed

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns about every cut prompt
    where, index = find(name, field)
    _check_kind(index[name], metric, field, bool(items))
    names = [name]
    if items:
        rows = harness_data.read(items, name, f"{field}.file")
        shown = harness_data.read(examples, name, f"{field}.shots_file") if examples else None
        if shots and not shown:
            raise InputError(f"{field}.shots_file is missing: {shots} examples are shown before each item of file")
        harness_data.configure(index, rows, shown, folder=folder, field=field)
        names = list(rows)
    random.seed(SEEDS["random"])  # some tasks shuffle an item's choices while they load it
    np.random.seed(SEEDS["numpy"])
    set_torch_seed(SEEDS["torch"])
    tasks = _load(TaskManager(include_defaults=False, include_path=[where, folder]), f"{field}.task = {name}", names)
    for task in tasks.values():
        means = [each for each, function in task.aggregation().items() if function is mean]
        known = [f"{each},{filter.name}" for each in means for filter in task._filters]
        unsafe, multimodal = getattr(task, "UNSAFE_CODE", False), getattr(task, "MULTIMODAL", False)
        _check(task.task_name, metric, known, unsafe=unsafe, multimodal=multimodal, field=field)
        _show(task, shots, field)
    return tasks


def describe(tasks: Mapping[str, Task], from_files: bool) -> dict[str, Any]:
    """Return the harness's version, and each task's version, shots and configuration, as JSON values.

    With `from_files` the paths of the data are left out.
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
    """Tell whether a task, or each task of a group, is in the index."""
    entry = index.get(name)
    if entry is None or entry.kind.name != "GROUP":
        return entry is not None
    return all(isinstance(member, str) and _whole(member, index) for member in entry.cfg["task"])


def _members(name: str, index: Mapping[str, Any]) -> set[str]:
    """Return the named tasks of a group and of the groups in it, or the task itself."""
    entry = index[name]
    within = {"GROUP": lambda: entry.cfg["task"], "TAG": lambda: entry.tags}.get(entry.kind.name)
    if not within:
        return {name}
    named = [member for member in within() if isinstance(member, str) and member in index]
    return {task for member in named for task in _members(member, index)}


def _copied(data_set: str) -> bool:
    """Tell whether a dataset is in the cache of `datasets`, or a folder of that name exists."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = data_set.rpartition("/")
    cached = "___".join([*([owner] if owner else []), camelcase_to_snakecase(name)])
    return Path(data_set).exists() or Path(datasets.config.HF_DATASETS_CACHE, cached).exists()


def _load(manager: Any, where: str, names: list[str]) -> dict[str, Task]:
    from datasets.exceptions import DatasetsError

    try:
        tasks: dict[str, Task] = manager.load(names)["tasks"]
    except ConnectionError as error:
        raise StageError(
            f"{where}: the hub cannot be reached, and there is no local copy; `file` can name one ({error})"
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError, LookupError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{where}: the harness cannot load it ({reason})") from error
    return tasks


def _check_kind(entry: Any, metric: str, field: str, from_files: bool) -> None:
    """Raise InputError unless this is a task, or a group averaged over all of its items as in `harness.score`.

    Of the groups, only MMLU can be read `from_files`.
    """
    from lm_eval.config.group import GroupConfig

    name, group, kind = entry.name, entry.cfg, entry.kind.name
    if kind == "TAG" or (kind == "GROUP" and from_files and name != "mmlu"):
        members = ", ".join(map(str, sorted(entry.tags) or group["task"]))
        raise InputError(f"{field}.task = {name}: a collection of tasks; name one of them: {members[:300]}")
    if kind != "GROUP":
        return
    wanted = metric.partition(",")[0]
    averages = GroupConfig(name, aggregate_metric_list=group.get("aggregate_metric_list")).aggregate_metric_list or ()
    if [each.weight_by_size and each.aggregation == "mean" for each in averages if each.metric == wanted] != [True]:
        raise InputError(
            f"{field}.metric = {metric}: the harness has no mean of {wanted} over all items of the group {name}; "
            f"name one of its tasks in {field}.task"
        )


def _means(config: Mapping[str, Any]) -> list[str] | None:
    """Return the metrics of a task that are means over items, or None when the task has code of its own."""
    from lm_eval.api.metrics import mean
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, get_aggregation, get_metric_aggregation

    metrics = config.get("metric_list")
    if metrics is None:
        metrics = [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[config.get("output_type", "generate_until")]]
    if any("/" in str(one[key]) for one in metrics for key in ("metric", "aggregation") if key in one):
        return None
    averages = {
        name: get_aggregation(one["aggregation"]) if "aggregation" in one else get_metric_aggregation(name)
        for one in metrics
        for name in (one["metric"],)
    }
    filters = [one["name"] for one in config.get("filter_list") or [{"name": "none"}]]
    return [f"{name},{filter}" for name, function in averages.items() if function is mean for filter in filters]


def _check(name: str, metric: str, known: Collection[str], *, unsafe: bool, multimodal: bool, field: str) -> None:
    """Raise InputError unless the metric is a mean over items of the task, and the task needs only text."""
    if metric not in known:
        has = ", ".join(known) or "none that is a mean over items"
        raise InputError(f"{field}.metric = {metric}: {name} has {has}")
    if unsafe:
        raise InputError(f"{field}.task = {name}: it runs code that the model writes, which is not done here")
    if multimodal:
        raise InputError(f"{field}.task = {name}: it shows pictures or sound, and the models here read text")


def _show(task: Task, shots: int, field: str) -> None:
    """Set the number of examples, as `lm_eval.evaluator.simple_evaluate` does."""
    task.set_fewshot_seed(SEEDS["few-shot"])
    own = task.get_config("num_fewshot")
    if own != 0:
        task.set_config("num_fewshot", shots)
    there = len(task.sampler.df) if shots and own != 0 else None
    among = task.fewshot_cfg.split == task.config.test_split
    _check_shots(task.task_name, shots, own=own, there=there, among=among, field=field)


def _check_shots(name: str, shots: int, *, own: int | None, there: int | None, among: bool, field: str) -> None:
    """Raise InputError unless there are enough examples.

    `own` is the number in the task's configuration, and `there` the number of examples, if known. `among` tells whether
    the item itself may be one of them.
    """
    if shots and own == 0:
        raise InputError(f"{field}.shots = {shots}: the harness shows no examples in {name}; set 0")
    needed = shots + among
    if shots and there is not None and there < needed:
        raise InputError(f"{field}.shots = {shots}: {name} needs {needed} examples, and there are {there}")


def _source(value: Any) -> str:
    """Return the source of a task's function."""
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return str(getattr(value, "__qualname__", type(value).__name__))
