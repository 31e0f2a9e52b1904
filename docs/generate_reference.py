"""Write the reference pages of the commands and of the settings, from the parsers and the typed settings.

MkDocs calls `on_files` when it builds the site (`hooks` in mkdocs.yml). The pages live in memory and are in no commit.
"""

import argparse
import json
import types
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from flows.commands import cli
from montessori.settings.run import Settings
from montessori.settings.study import Study
from montessori.settings.suite import Suite

USAGE = partial(argparse.HelpFormatter, width=100)  # whatever the width of the terminal
BLOCK = "block"  # a type of several keys, which have a table of their own
BOUNDS = ((Ge, "ge", "at least"), (Gt, "gt", "above"), (Le, "le", "at most"), (Lt, "lt", "below"))
SETTINGS = """# {title}

{intro}

Change one on the command line with `--set KEY=VALUE`. A value is YAML, so a list is `'[0, 1]'` and nothing is `null`.

"""
COMMANDS = """# Commands

Every command exits with 0 when it is done, with 2 when the input is wrong, and with 1 after any other failure. On
exit code 2 nothing was started, and one sentence says what to correct.

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Return the text of each generated page by its name."""
    return {
        "commands": COMMANDS + "\n".join(_commands()),
        "settings": _settings_page(
            Settings,
            "Settings of a run",
            "A file of `montessori run` or `montessori refresh` has these keys.",
        ),
        "suite": _settings_page(Suite, "Settings of a suite", "A file of `--suite` has these keys."),
        "study": _settings_page(Study, "Settings of a study", "A file of `montessori study` has these keys."),
    }


def _commands() -> Iterator[str]:
    for name, parser in _subcommands(cli._parser()):
        yield f"## montessori {name}\n"
        yield from _command(parser)
        for action, below in _subcommands(parser):
            yield f"### montessori {name} {action}\n"
            yield from _command(below, parser.epilog)


def _subcommands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [item for group in groups for item in group.choices.items()]


def _command(parser: argparse.ArgumentParser, shown: str | None = None) -> Iterator[str]:
    """Describe one command; its examples are left out where they are those already `shown`."""
    yield f"{parser.description or ''}\n"
    parser.formatter_class = USAGE
    setattr(parser, "color", False)  # noqa: B010  (Python 3.14 colours a terminal's usage lines)
    yield f"```text\n{parser.format_usage().removeprefix('usage: ')}```\n"
    actions = [
        action
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
    ]
    if actions:
        yield "| option | meaning |\n| --- | --- |"
        yield from (f"| {_code(_spelling(action))} | {_cell(_help(parser, action))} |" for action in actions)
        yield ""
    if parser.epilog and parser.epilog != shown:
        yield f"```text\n{parser.epilog.strip()}\n```\n"


def _spelling(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if action.option_strings and action.nargs == 0:
        return ", ".join(action.option_strings)
    value = metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return " ".join([*action.option_strings[-1:], value])


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": parser.prog}


def _settings_page(model: type[BaseModel], title: str, intro: str) -> str:
    shown: dict[type[BaseModel], str] = {}
    return SETTINGS.format(title=title, intro=intro) + "\n".join(_block(model, "", shown))


def _block(model: type[BaseModel], key: str, shown: dict[type[BaseModel], str]) -> Iterator[str]:
    """Describe the fields of one block, and then the blocks below it."""
    if key:
        yield f"## {key}\n"
    if model in shown:
        yield f"The same keys as [`{shown[model]}`](#{_anchor(shown[model])}).\n"
        return
    shown[model] = key
    if key and model.__doc__:
        yield f"{_paragraphs(model.__doc__)}\n"
    yield "| key | type | default | meaning |\n| --- | --- | --- | --- |"
    below = []
    for name, field in model.model_fields.items():
        path = f"{key}.{name}" if key else name
        below_here = f"{path}.NAME" if get_origin(field.annotation) is dict else path
        below += [(one, below_here) for one in _models(field.annotation)]
        kind = _type(field).replace(BLOCK, f"[block](#{_anchor(below_here)})")
        yield f"| {_code(path)} | {_cell(kind)} | {_cell(_default(field))} | {_cell(field.description or '')} |"
    yield ""
    for one, path in below:
        yield from _block(one, path, shown)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings blocks that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _type(field: FieldInfo) -> str:
    bounds = []
    for constraint in field.metadata:
        bounds += [f"{words} {getattr(constraint, at)}" for kind, at, words in BOUNDS if isinstance(constraint, kind)]
        if isinstance(constraint, MultipleOf):
            bounds.append(f"a multiple of {constraint.multiple_of}")
        if isinstance(constraint, MinLen):
            bounds.append(f"length at least {constraint.min_length}")
        if isinstance(constraint, MaxLen):
            bounds.append(f"length at most {constraint.max_length}")
    return ", ".join([_name(field.annotation), *bounds])


def _name(annotation: Any) -> str:
    """Name a type as a user would."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(parts[0])
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(part) for part in parts)
    if origin in (tuple, list):
        return f"list of {_name(parts[0])}"
    if origin is dict:
        return "settings" if parts[1] in (Any, JsonValue) else f"map of names to {_name(parts[1])}"
    plain = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", type(None): "`null`"}
    return plain.get(annotation) or (BLOCK if _models(annotation) else str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
        return _code(json.dumps(value, ensure_ascii=False)) if value else ""
    return _code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _code(text: str) -> str:
    return f"`{text}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _paragraphs(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _anchor(key: str) -> str:
    return slugify(key, "-")
