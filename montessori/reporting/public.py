"""The parts of addresses and settings that may leave the machine of a run: no path, no host, no endpoint of one's own.

A local file or folder is told by its name and the SHA-256 of its content; where it stands is not. An endpoint is told
by its model; its URL only where it is one of the public services below, since any other names a machine.
"""

import copy
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from montessori.artifacts import is_artifact

Tree = dict[str, Any]

SOURCES = ("seeds", "reference", "test", "teacher", "student")  # the settings with a `source`
SERVICES = {
    "api.anthropic.com",
    "api.deepseek.com",
    "api.groq.com",
    "api.mistral.ai",
    "api.openai.com",
    "api.together.xyz",
    "generativelanguage.googleapis.com",
    "openrouter.ai",
}
NOT_TOLD = "http://your-endpoint.invalid/v1"  # a URL, so that the settings can still be read


def address(of: str) -> str:
    """Return an input's address (see `artifacts.request`) as it may be published; that of an artifact is as it is."""
    kind, _, rest = of.partition(":")
    if kind == "file":
        path, _, digest = rest.rpartition("#")
        return f"file:{Path(path).name}#{digest}"
    if kind == "api":
        model, _, url = rest.rpartition("@")
        host = urlsplit(url).hostname
        return f"api:{_name(model)}" + (f"@{host}" if host in SERVICES else "")
    return of


def in_words(of: str) -> str:
    """Describe the source at an address, as a card names it. Of an artifact that is its address."""
    kind, _, rest = address(of).partition(":")
    if kind == "file":
        name, _, digest = rest.rpartition("#")
        return f"{code(name)} (SHA-256 {code(digest)})"
    if kind == "api":
        model, _, host = rest.partition("@")
        return f"{code(model)} behind {host or 'an OpenAI-compatible endpoint of its own'}"
    if kind == "hub":
        return f"{code(rest)} from the hub"
    if of.startswith("scratch-"):
        return f"a small Llama trained from nothing, {code(of)}"
    return code(of) if is_artifact(of) else "the pocket world, a program that makes small tasks"


def settings(run: Tree) -> Tree:
    """Return a run's settings with the names of local files and folders in place of their paths."""
    told: Tree = copy.deepcopy(run)
    for role in SOURCES:
        if (given := told.get(role)) and Path(given["source"]).is_absolute():
            given["source"] = Path(given["source"]).name
    if endpoint := told.get("generation", {}).get("openai"):
        if endpoint.get("model"):
            endpoint["model"] = _name(endpoint["model"])
        parts = urlsplit(endpoint["base_url"])
        known = parts.hostname in SERVICES
        endpoint["base_url"] = f"{parts.scheme}://{parts.hostname}{parts.path}" if known else NOT_TOLD
    return told


def code(text: str) -> str:
    """Set `text` as code on one line of Markdown, in a table too."""
    line = " ".join(text.split()).replace("|", "\\|")
    marks, room = fence(line, 1), " " if "`" in line else ""
    return f"{marks}{room}{line}{room}{marks}"


def fence(text: str, shortest: int) -> str:
    """Return backticks around `text` that none in it can end."""
    return "`" * max([shortest, *(len(run) + 1 for run in re.findall("`+", text))])


def _name(model: str) -> str:
    """Return a model's name without a path: a server of one's own calls it by its path unless told otherwise."""
    is_path = model.startswith(("/", "~", ".")) or "\\" in model or model.count("/") > 1
    return re.split(r"[\\/]", model.rstrip("\\/"))[-1] if is_path else model
