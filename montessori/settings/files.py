"""Read settings from a YAML file and `key=value` overrides, and write them back.

Every error is an InputError whose one sentence names the file and the field.
"""

import copy
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from montessori.errors import InputError
from montessori.settings import shipped
from montessori.settings.base import block_class
from montessori.settings.data import DataSource
from montessori.settings.run import Settings

SOURCES = ("seeds", "reference", "test", "questions", "trained_on")  # a name or a path alone stands for the block
# Settings that may hold a path, and their values that are not paths.
PATHS = {*SOURCES, "source", "file", "shots_file", "references", "people", "prompts", "difficulties"}
WORDS = {"pocket", "scratch", "hub", "none"}
TEXTS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}  # tags of keys in YAML. A merge is `<<`
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
Kind = TypeVar("Kind", bound=BaseModel)


def load(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """Return the settings in YAML file `path`, with `key.sub=value` overrides. The values of overrides are YAML.

    Raises InputError with the file, the field, and the nearest known key.
    """
    tree = read(path, overrides)
    if is_study(tree):
        raise InputError(f"{path}: a study, not the settings of one run; `montessori study {path}` runs it")
    return parse(tree, str(path))


def read(path: str | Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Return the tree of YAML file `path`, with overrides, without a check of its keys and values."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a YAML file of settings")
    try:
        tree = _parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there: dict[str, str | Path] = {name: name for kind in shipped.FOLDERS for name in shipped.names(kind)}
        there |= {file.stem: file for file in path.parent.glob("*.yaml")}
        near = difflib.get_close_matches(path.stem, there, n=1)
        hint = f"; did you mean {there[near[0]]}?" if near else ""
        raise InputError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except _WrongYaml as error:
        raise InputError(f"{path}, line {error.line}: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected settings as `key: value` lines")
    return with_overrides(tree, overrides or [])


def is_study(tree: dict[str, Any]) -> bool:
    """Tell whether `tree` belongs to a study. A study names its settings, and a run's file consists of them."""
    return "settings" in tree


def with_overrides(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return a copy of `tree` with the overrides."""
    copied = copy.deepcopy(tree)
    for override in overrides:
        _override(copied, override)
    return copied


def format_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return overrides for these values. None values are left out."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def with_absolute_paths(tree: Any) -> Any:
    """Return `tree` with absolute paths for existing files and folders, to be read elsewhere."""
    if isinstance(tree, dict):
        return {key: _absolute(key, with_absolute_paths(value)) for key, value in tree.items()}
    return [with_absolute_paths(value) for value in tree] if isinstance(tree, list) else tree


def _absolute(key: str, value: Any) -> Any:
    path = Path(value).expanduser() if isinstance(value, str) and key in PATHS and value not in WORDS else None
    return str(path.resolve()) if path and path.exists() else value


def parse(tree: dict[str, Any], where: str) -> Settings:
    """Return `tree` as `Settings`. `where` is the start of the InputError's message."""
    return block(Settings, tree, where)


def block(kind: type[Kind], tree: dict[str, Any], where: str) -> Kind:
    """Return `tree` as settings of class `kind`. `where` is the start of the InputError's message."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{where}: {sentence(error, kind)}") from None


def dump(tree: dict[str, Any]) -> str:
    """Return settings, dumped by `model_dump(mode="json")`, as YAML for `load`."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: expected key=value, for example dpo.beta=0.2")
    try:
        value = _parse_yaml(text)
    except _WrongYaml as error:
        raise InputError(f"--set {override}: {error}") from None
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if isinstance(below, str) and parent in SOURCES:
            below = tree[parent] = {"source": below}
        if not isinstance(below, dict):
            raise InputError(f"--set {override}: {parent} has no fields below it")
        tree = below
    tree[last] = value


def _parse_yaml(text: str) -> Any:
    """Return the value of YAML `text` as JSON has it: keys and dates are text, and an alias becomes a copy.

    So one override never changes two settings. Raises _WrongYaml.
    """
    try:
        return json.loads(json.dumps(yaml.load(text, _Loader), default=str))
    except yaml.MarkedYAMLError as error:
        line, begun = (mark.line + 1 if mark else 0 for mark in (error.problem_mark, error.context_mark))
        since = f" that begins in line {begun}" if 0 < begun < line else ""
        context = f"{error.context}{since}, " if error.context else ""
        raise _WrongYaml(f"not YAML: {context}{error.problem}", line) from None
    except yaml.reader.ReaderError as error:
        raise _WrongYaml(f"not YAML: {error.reason}", text.count("\n", 0, error.position) + 1) from None


class _WrongYaml(Exception):
    """Wrong YAML: what is wrong, and in which line."""

    def __init__(self, reason: str, line: int):
        super().__init__(reason)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Read YAML with JSON's limits: keys are text or numbers, unique, and no value contains itself."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """Compose a mapping. Raises _WrongYaml for a key of another kind, or a second one."""
        node = super().compose_mapping_node(anchor)
        known: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _WrongYaml("a list or a block is no key; expected text", line)
            if key.tag not in TEXTS | NUMBERS:
                said = key.value or '""'
                raise _WrongYaml(f"the key {said} is neither text nor a number to YAML; write it in quotes", line)
            text = key.value if key.tag in TEXTS else str(self.construct_object(key))
            if text in known:
                raise _WrongYaml(f"the key {text} is there twice; keep one of them", line)
            known.add(text)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = True) -> Any:
        """Construct a value, always deeply.

        Raises _WrongYaml for an impossible value, like a 13th month, or a value inside itself.
        """
        line = node.start_mark.line + 1
        if node in self.recursive_objects:
            raise _WrongYaml("the anchor here has an alias to it inside of it; write out what is meant there", line)
        try:
            return super().construct_object(node, deep)  # deep, so that a value inside itself is noticed here
        except ValueError as error:
            raise _WrongYaml(f"not YAML: {error}", line) from None


def sentence(error: ValidationError, kind: type[BaseModel] = Settings) -> str:
    """Return the first error in settings of class `kind`, as one sentence."""
    errors = error.errors()
    first, path = errors[0], _path(errors[0])
    field = ".".join(path)
    if first["type"] == "extra_forbidden":
        return _unknown(path, kind)
    if first["type"] == "missing":  # it may be there, but misspelt
        beside = [_path(one) for one in errors if one["type"] == "extra_forbidden"]
        misspelt = [_unknown(extra, kind) for extra in beside if extra[:-1] == path[:-1]]
        return "; ".join([f"{field} is missing", *misspelt[:1]])
    if path[-1:] == ["str"] and first["type"] == "string_type":  # from a field that takes text or something else
        path, field = path[:-1], ".".join(path[:-1])
        block = any(other["type"] == "dict_type" and _path(other)[: len(path)] == path for other in errors)
        message = "expected a file or a block of settings" if block else "expected text or a list of texts"
    else:
        message = _message(first)
    given = re.sub(r"//[^/@\s]*@", "//…@", repr(first["input"]))  # an address may contain a key
    return (
        f"{field} = {given}: {message}"
        if field and not isinstance(first["input"], dict)
        else (f"{field}: {message}" if field else message)
    )


def _path(error: Any) -> list[str]:
    return [str(part) or '""' for part in error["loc"] if not str(part).startswith("function-")]


def _message(error: Any) -> str:
    if error["type"] in ("model_type", "dict_type"):  # pydantic's messages speak of dictionaries and classes
        source = error.get("ctx", {}).get("class_name") == DataSource.__name__
        return "expected a file, a data set or a block of settings" if source else "expected a block of settings"
    message: str = error["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _unknown(path: list[str], kind: type[BaseModel]) -> str:
    known = list(_block(path[:-1], kind).model_fields)
    return f"unknown setting {'.'.join(path)}; {hint(path[-1], known, ''.join(f'{part}.' for part in path[:-1]))}"


def hint(asked: str, known: Sequence[str], before: str = "") -> str:
    """Suggest the nearest of the `known` names, with `before` in front of it, or list them all."""
    near = difflib.get_close_matches(asked, known, n=1)
    return f"did you mean {before}{near[0]}?" if near else "known here: " + ", ".join(known)


def _block(path: list[str], kind: type[BaseModel]) -> type[BaseModel]:
    """Return the settings class at `path` below `kind`."""
    block = kind
    for part in path:
        if part in block.model_fields:  # otherwise a name, as of a suite's benchmark
            block = block_class(block.model_fields[part].annotation) or block
    return block
