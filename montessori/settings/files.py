"""Settings from a YAML file and `key=value` overrides, and back.

In: a path.  Out: a frozen `Settings`, or another block of settings, or an InputError whose one sentence names the file
and the field.
"""

import copy
import difflib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from montessori.errors import InputError
from montessori.settings import shipped
from montessori.settings.schema import DataSource, Settings

SOURCES = ("seeds", "reference", "test", "questions", "trained_on")  # may be written as a name or path alone
# Settings that may hold a path, and what is none there.
PATHS = {*SOURCES, "source", "file", "shots_file", "references", "people", "prompts", "difficulties"}
WORDS = {"pocket", "scratch", "hub", "none"}
TEXTS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}  # of a YAML key; a merge's is `<<`
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
Kind = TypeVar("Kind", bound=BaseModel)


def load(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """The settings in YAML file `path`, with `key.sub=value` overrides (values are YAML).

    Raises InputError that names the file and the field, and suggests the key that was probably meant.
    """
    tree = read(path, overrides)
    if is_study(tree):
        raise InputError(f"{path}: a study, not the settings of one run; `montessori study {path}` runs it")
    return parse(tree, str(path))


def read(path: str | Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """The same, not yet checked against the settings that there are."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a YAML file of settings")
    try:
        tree = _loaded(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there: dict[str, str | Path] = {name: name for kind in shipped.FOLDERS for name in shipped.names(kind)}
        there |= {file.stem: file for file in path.parent.glob("*.yaml")}
        near = difflib.get_close_matches(path.stem, there, n=1)
        hint = f"; did you mean {there[near[0]]}?" if near else ""
        raise InputError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except _Wrong as error:
        raise InputError(f"{path}, line {error.line}: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected settings as `key: value` lines")
    return changed(tree, overrides or [])


def is_study(tree: dict[str, Any]) -> bool:
    """Whether `tree` is of a study: that names its settings, a run's file is them."""
    return "settings" in tree


def changed(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """A copy of `tree` with the overrides."""
    found = copy.deepcopy(tree)
    for override in overrides:
        _override(found, override)
    return found


def overrides(values: Mapping[str, Any]) -> list[str]:
    """The overrides that say these values, but for those that are None."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def grounded(tree: Any) -> Any:
    """`tree` with the paths of files and folders that are there made absolute: it may be read in another folder."""
    if isinstance(tree, dict):
        return {key: _absolute(key, grounded(value)) for key, value in tree.items()}
    return [grounded(value) for value in tree] if isinstance(tree, list) else tree


def _absolute(key: str, value: Any) -> Any:
    path = Path(value).expanduser() if isinstance(value, str) and key in PATHS and value not in WORDS else None
    return str(path.resolve()) if path and path.exists() else value


def parse(tree: dict[str, Any], where: str) -> Settings:
    """`tree` as `Settings`; `where` begins the message of the InputError otherwise."""
    return block(Settings, tree, where)


def block(kind: type[Kind], tree: dict[str, Any], where: str) -> Kind:
    """The same for settings of another `kind`."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{where}: {sentence(error, kind)}") from None


def dump(tree: dict[str, Any]) -> str:
    """Settings, as `model_dump(mode="json")` gives them, as YAML that `load` reads back."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: expected key=value, for example dpo.beta=0.2")
    try:
        value = _loaded(text)
    except _Wrong as error:
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


def _loaded(text: str) -> Any:
    """What YAML `text` says, as JSON has it: keys and dates are text, and no part is there twice by an alias.

    So one override never changes two settings. Raises _Wrong.
    """
    try:
        return json.loads(json.dumps(yaml.load(text, _Loader), default=str))
    except yaml.MarkedYAMLError as error:
        line, begun = (mark.line + 1 if mark else 0 for mark in (error.problem_mark, error.context_mark))
        since = f" that begins in line {begun}" if 0 < begun < line else ""
        context = f"{error.context}{since}, " if error.context else ""
        raise _Wrong(f"not YAML: {context}{error.problem}", line) from None
    except yaml.reader.ReaderError as error:
        raise _Wrong(f"not YAML: {error.reason}", text.count("\n", 0, error.position) + 1) from None


class _Wrong(Exception):
    """What is wrong with YAML, and in which line."""

    def __init__(self, reason: str, line: int):
        super().__init__(reason)
        self.line = line


class _Loader(yaml.SafeLoader):
    """YAML as JSON could say it: keys are text or numbers, none overrides another, and nothing is a part of itself."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """As ever, unless a key is neither text nor a number, or is there twice."""
        node = super().compose_mapping_node(anchor)
        known: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _Wrong("a list or a block is no key; expected text", line)
            if key.tag not in TEXTS | NUMBERS:
                said = key.value or '""'
                raise _Wrong(f"the key {said} is neither text nor a number to YAML; write it in quotes", line)
            text = key.value if key.tag in TEXTS else str(self.construct_object(key))
            if text in known:
                raise _Wrong(f"the key {text} is there twice; keep one of them", line)
            known.add(text)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = True) -> Any:
        """As ever, but whole, unless its value is none of its kind (a 13th month), or it has itself as a part."""
        line = node.start_mark.line + 1
        if node in self.recursive_objects:
            raise _Wrong("the anchor here has an alias to it inside of it; write out what is meant there", line)
        try:
            return super().construct_object(node, deep)  # deep, a part of itself is met while that is made
        except ValueError as error:
            raise _Wrong(f"not YAML: {error}", line) from None


def sentence(error: ValidationError, kind: type[BaseModel] = Settings) -> str:
    """The first thing wrong with settings of that `kind`, as one sentence."""
    found = error.errors()
    first, path = found[0], _path(found[0])
    field = ".".join(path)
    if first["type"] == "extra_forbidden":
        return _unknown(path, kind)
    if first["type"] == "missing":  # perhaps it is there, misspelt
        beside = [_path(one) for one in found if one["type"] == "extra_forbidden"]
        misspelt = [_unknown(extra, kind) for extra in beside if extra[:-1] == path[:-1]]
        return "; ".join([f"{field} is missing", *misspelt[:1]])
    if path[-1:] == ["str"] and first["type"] == "string_type":  # of a field that may be text or something else
        path, field = path[:-1], ".".join(path[:-1])
        block = any(other["type"] == "dict_type" and _path(other)[: len(path)] == path for other in found)
        message = "expected a file or a block of settings" if block else "expected text or a list of texts"
    else:
        message = _message(first)
    given = re.sub(r"//[^/@\s]*@", "//…@", repr(first["input"]))  # a key may stand in an address
    return (
        f"{field} = {given}: {message}"
        if field and not isinstance(first["input"], dict)
        else (f"{field}: {message}" if field else message)
    )


def _path(error: Any) -> list[str]:
    return [str(part) or '""' for part in error["loc"] if not str(part).startswith("function-")]


def _message(error: Any) -> str:
    if error["type"] in ("model_type", "dict_type"):  # in pydantic's words a dictionary or an instance of a class
        source = error.get("ctx", {}).get("class_name") == DataSource.__name__
        return "expected a file, a data set or a block of settings" if source else "expected a block of settings"
    message: str = error["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _unknown(path: list[str], kind: type[BaseModel]) -> str:
    known = list(_block(path[:-1], kind).model_fields)
    return f"unknown setting {'.'.join(path)}; {hint(path[-1], known, ''.join(f'{part}.' for part in path[:-1]))}"


def hint(asked: str, known: Sequence[str], before: str = "") -> str:
    """Which of the `known` names was probably meant, with what stands `before` it; all of them where none is near."""
    near = difflib.get_close_matches(asked, known, n=1)
    return f"did you mean {before}{near[0]}?" if near else "known here: " + ", ".join(known)


def _block(path: list[str], kind: type[BaseModel]) -> type[BaseModel]:
    """The settings class at `path` below `kind`."""
    block = kind
    for part in path:
        if part in block.model_fields:  # else the name of one of many, as of a suite's benchmarks
            block = _settings_class(block.model_fields[part].annotation) or block
    return block


def _settings_class(annotation: Any) -> type[BaseModel] | None:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated, dict):
        found = (_settings_class(argument) for argument in typing.get_args(annotation))
        return next((c for c in found if c), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
