"""The tasks of lm-evaluation-harness: found by name, checked against the settings, loaded with their data.

In: a task's or group's name, a metric, a number of shots, perhaps files in place of the hub's data.
Out: the harness's own task objects, ready for `harness.py`, and what a reader must know of them to trust a number; or
beforehand, from the harness's configurations alone, whether they can be had. Errors name the benchmark's `field`.
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
from montessori.evaluation import local
from montessori.settings.suite import Benchmark

HUB_TIMEOUT_S = 10
SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "few-shot": 1234}  # those of the command line `lm_eval`
Task = Any  # lm_eval.api.task.Task


def find(name: str, field: str) -> tuple[Path, Mapping[str, Any]]:
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
        raise InputError(f"{field}.task = {name}: lm-evaluation-harness has no such task{hint}")
    return tasks, index


def check(asked: Benchmark, field: str, items: local.Rows | None, examples: local.Rows | None) -> set[str]:
    """Raise InputError as `load` does, as far as configurations tell: no data is loaded, nor torch.

    `items` and `examples` are the rows of the benchmark's files. Returns the hub's data sets that it needs.
    """
    _, index = find(asked.task, field)
    _check_kind(index[asked.task], asked.metric, field, bool(items))
    needed = set()
    for name in items or sorted(_members(asked.task, index)):
        config = index[name].cfg
        if items:
            local.splits(index[name], items, examples, field)
        if "class" in config:  # code of the task's own, which only `load` can ask
            continue
        if (known := _means(config)) is not None:
            unsafe, multimodal = config.get("unsafe_code"), config.get("doc_to_image") or config.get("doc_to_audio")
            _check(name, asked.metric, known, bool(unsafe), bool(multimodal), field)
        shown = config.get("fewshot_config") or {}
        there = len(examples[name]) if items and examples and "samples" not in shown else None
        among = (shown.get("split") or config.get("fewshot_split")) == config.get("test_split")
        _check_shots(name, asked.shots, config.get("num_fewshot"), there, among, field)
        elsewhere = items or config.get("custom_dataset") or (config.get("dataset_kwargs") or {}).get("data_files")
        if not elsewhere and "dataset_path" in config:
            needed.add(config["dataset_path"])
    return needed


def check_hub(needed: Mapping[str, Collection[str]]) -> None:
    """Raise InputError when the hub cannot be reached, and has data of which there is no local copy.

    `needed` has the data sets of each benchmark, by its field. Asks once; a data set that the hub does not give is for
    `load` to tell.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    unreachable = cast(type[Exception], HfHubHTTPError.__bases__[0])  # of whichever HTTP library the client uses
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
    metric: str,
    shots: int,
    folder: Path,
    field: str,
    items: Path | None = None,
    examples: Path | None = None,
) -> dict[str, Task]:
    """The task `name`, or the tasks of that group, by name, with `shots` examples before each item.

    Data is the hub's, or that of the files `items` and `examples`; these are copied into `folder`, which must stay as
    long as the tasks are used. Raises InputError when a setting or a file does not fit, StageError when the hub is out
    of reach.
    """
    from lm_eval.api.metrics import mean
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import set_torch_seed

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every prompt that it cuts
    where, index = find(name, field)
    _check_kind(index[name], metric, field, bool(items))
    names = [name]
    if items:
        rows = local.read(items, name, f"{field}.file")
        shown = local.read(examples, name, f"{field}.shots_file") if examples else None
        if shots and not shown:
            raise InputError(f"{field}.shots_file is missing: {shots} examples are shown before each item of file")
        local.configure(index, rows, shown, folder, field)
        names = list(rows)
    random.seed(SEEDS["random"])  # some tasks shuffle the choices of an item as they load it
    np.random.seed(SEEDS["numpy"])
    set_torch_seed(SEEDS["torch"])
    tasks = _load(TaskManager(include_defaults=False, include_path=[where, folder]), f"{field}.task = {name}", names)
    for task in tasks.values():
        means = [each for each, function in task.aggregation().items() if function is mean]
        known = [f"{each},{filter.name}" for each in means for filter in task._filters]
        unsafe, multimodal = getattr(task, "UNSAFE_CODE", False), getattr(task, "MULTIMODAL", False)
        _check(task.task_name, metric, known, unsafe, multimodal, field)
        _show(task, shots, field)
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


def _members(name: str, index: Mapping[str, Any]) -> set[str]:
    """The tasks that a group consists of, of its groups too; of a task itself. Those without a name are left out."""
    entry = index[name]
    within = {"GROUP": lambda: entry.cfg["task"], "TAG": lambda: entry.tags}.get(entry.kind.name)
    if not within:
        return {name}
    named = [member for member in within() if isinstance(member, str) and member in index]
    return {task for member in named for task in _members(member, index)}


def _copied(data_set: str) -> bool:
    """Whether a data set is at hand without the hub: in the cache of `datasets`, or as a folder of that name."""
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
    """Raise InputError unless this is a task, or a group that is averaged over all of its items, as by `harness.score`.

    Of the groups, MMLU's alone can be read `from_files`.
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
    """The metrics of a task that are means over items; None where functions of its own may be among them."""
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


def _check(name: str, metric: str, known: Collection[str], unsafe: bool, multimodal: bool, field: str) -> None:
    """Raise InputError unless the metric is one of the task and a mean over items, and text is all that it takes."""
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
    _check_shots(task.task_name, shots, own, there, task.fewshot_cfg.split == task.config.test_split, field)


def _check_shots(name: str, shots: int, own: int | None, there: int | None, among: bool, field: str) -> None:
    """Raise InputError unless the examples suffice.

    `own` is how many the task's configuration wants, `there` how many there are, if known, `among` whether the item
    itself may be one of them.
    """
    if shots and own == 0:
        raise InputError(f"{field}.shots = {shots}: the harness shows no examples in {name}; set 0")
    needed = shots + among
    if shots and there is not None and there < needed:
        raise InputError(f"{field}.shots = {shots}: {name} needs {needed} examples, and there are {there}")


def _source(value: Any) -> str:
    """A function of a task as its source."""
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return str(getattr(value, "__qualname__", type(value).__name__))
