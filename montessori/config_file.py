"""Settings from a YAML file and `key=value` overrides, and back.

In: a path.  Out: a frozen `Settings`, or another block of settings, or an InputError whose one sentence names the file
and the field.
"""

import difflib
import json
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from montessori.config import Settings
from montessori.errors import InputError

SOURCES = ("seeds", "reference", "test", "questions", "trained_on")  # may be written as a name or path alone
# Settings that may hold a path, and what is none there.
PATHS = {*SOURCES, "source", "file", "shots_file", "references", "people", "prompts", "difficulties"}
WORDS = {"pocket", "scratch", "hub", "none"}
Kind = TypeVar("Kind", bound=BaseModel)


def load(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """The settings in YAML file `path`, with `key.sub=value` overrides (values are YAML).

    Raises InputError that names the file and the field, and suggests the key that was probably meant.
    """
    return parse(read(path, overrides), str(path))


def read(path: str | Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """The same, not yet checked against the settings that there are."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a YAML file of settings")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.stem, [p.stem for p in Path("configs").glob("*.yaml")], n=1)
        hint = f"; did you mean configs/{near[0]}.yaml?" if near else ""
        raise InputError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except _Twice as error:
        raise InputError(f"{path}, line {error.line}: {error}; keep one of them") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected settings as `key: value` lines")
    return changed(tree, overrides or [])


def changed(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """A copy of `tree` with the overrides."""
    # A YAML alias must not let one override change two settings.
    found: dict[str, Any] = json.loads(json.dumps(tree, default=str))
    for override in overrides:
        _override(found, override)
    return found


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
        value = yaml.load(text, _Loader)
    except _Twice as error:
        raise InputError(f"--set {override}: {error}; keep one of them") from None
    except yaml.YAMLError:
        raise InputError(f"--set {override}: the value is not YAML") from None
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if isinstance(below, str) and parent in SOURCES:
            below = tree[parent] = {"source": below}
        if not isinstance(below, dict):
            raise InputError(f"--set {override}: {parent} has no fields below it")
        tree = below
    tree[last] = value


class _Twice(yaml.YAMLError):
    """A key that a mapping has twice, of which YAML would take the last."""

    def __init__(self, key: str, line: int):
        super().__init__(f"the key {key} is there twice")
        self.line = line


class _Loader(yaml.SafeLoader):
    """YAML without keys that override each other."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """As ever, unless a key is there twice."""
        node = super().compose_mapping_node(anchor)
        known = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in known:
                raise _Twice(key.value, key.start_mark.line + 1)
            known.add((key.tag, key.value))
        return node


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
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = re.sub(r"//[^/@\s]*@", "//…@", repr(first["input"]))  # a key may stand in an address
    return (
        f"{field} = {given}: {message}"
        if field and not isinstance(first["input"], dict)
        else (f"{field}: {message}" if field else message)
    )


def _path(error: Any) -> list[str]:
    return [str(part) for part in error["loc"] if not str(part).startswith("function-")]


def _unknown(path: list[str], kind: type[BaseModel]) -> str:
    known = list(_block(path[:-1], kind).model_fields)
    near = difflib.get_close_matches(path[-1], known, n=1)
    return f"unknown setting {'.'.join(path)}; " + (
        f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else "known here: " + ", ".join(known)
    )


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
