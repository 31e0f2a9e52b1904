"""Pages from the templates beside this module: one HTML file that needs nothing else.

Every value that a template prints is escaped, and set on one line without unseen characters. The filter `verbatim`
keeps the lines of a text of a model or of a file of settings, which is escaped like the rest.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from montessori.reporting import text

if TYPE_CHECKING:
    from montessori.reporting.figures import Picture  # matplotlib, which a list of reports does without

# Should anything slip past the escaping, the browser still runs no script and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
LONGEST = 6000  # characters of one text; a page of whole books opens slowly


def render(template: str, **values: Any) -> str:
    """Fill a template with `values`."""
    return _TEMPLATES.get_template(template).render(values)


def write(folder: Path, files: Mapping[str, str], pictures: Iterable["Picture"]) -> Path:
    """Write a report's files, and `figures/*.svg, *.png`, into `folder`; return the path of its page."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
    for name, content in files.items():
        # Models' text can hold half of a surrogate pair, which no encoding can write.
        (folder / name).write_bytes(content.encode("utf-8", errors="replace"))
    return folder / "report.html"


def _cut(content: str) -> str:
    more = len(content) - LONGEST
    return f"{content[:LONGEST]}… ({more:,} more characters)" if more > 0 else content


def _on_one_line(value: object) -> object:
    return value if isinstance(value, Markup) else text.clean(str(value))


_TEMPLATES = Environment(
    loader=PackageLoader("montessori.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_on_one_line,
)
_TEMPLATES.globals["policy"] = POLICY
_TEMPLATES.filters |= {
    "verbatim": escape,
    "cut": _cut,
    **{name: getattr(text, name) for name in ("clean", "count", "duration", "label", "scientific", "short", "size")},
}
