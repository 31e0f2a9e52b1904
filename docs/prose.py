"""Measure the prose of README.md and docs/, and exit with 1 where a page is hard to read.

    python docs/prose.py [FOLDER]        # default: the repository

Per 1,000 words, a page may have at most 8 colons and semicolons, and 14 of that, which, what, whose, whoever and
whatever. Tables, code and HTML do not count. The limits hold for all pages together and for each page of more than 100
words.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

MOST_COLONS = 8  # colons and semicolons per 1,000 words
MOST_PRONOUNS = 14  # relative pronouns per 1,000 words
SHORT = 100  # words: a page of fewer is not judged alone
FENCED = re.compile(r"^( *)(```+|~~~+).*?^ *\2 *$", re.MULTILINE | re.DOTALL)
NOT_PROSE = ("|", "    ", "<")  # tables, indented code and HTML
WORD = re.compile(r"[A-Za-z']+")
COLON = re.compile(r"[:;] ")
PRONOUN = re.compile(r"\b(that|which|what|whose|whoever|whatever)\b", re.IGNORECASE)


class Prose(NamedTuple):
    """The counts of one text."""

    words: int
    colons: int
    pronouns: int

    @property
    def hard(self) -> bool:
        """Whether a limit is exceeded."""
        return 1000 * self.colons > MOST_COLONS * self.words or 1000 * self.pronouns > MOST_PRONOUNS * self.words

    def __str__(self) -> str:
        """Return both rates per 1,000 words."""
        colons, pronouns = (round(1000 * count / max(1, self.words)) for count in (self.colons, self.pronouns))
        return f"{self.words:,} words; per 1,000: {colons} colons and semicolons, {pronouns} of that/which/what/whose"


def measure(text: str) -> Prose:
    """Count the words, colons and relative pronouns of a Markdown text."""
    lines = FENCED.sub("", text).splitlines()
    prose = "\n".join(line for line in lines if not line.startswith(NOT_PROSE))
    return Prose(*(len(pattern.findall(prose)) for pattern in (WORD, COLON, PRONOUN)))


def hard_pages(root: Path) -> list[str]:
    """Return a line for each page below `root` that exceeds a limit, and one for all pages together."""
    paths = [path for path in (root / "README.md", *sorted(root.glob("docs/**/*.md"))) if path.exists()]
    pages = {str(path.relative_to(root)): measure(path.read_text(encoding="utf-8")) for path in paths}
    together = Prose(*map(sum, zip(*pages.values(), strict=True))) if pages else Prose(0, 0, 0)
    hard = [f"{name}: {prose}" for name, prose in pages.items() if prose.words > SHORT and prose.hard]
    return hard + ([f"all pages: {together}"] if together.hard else [])


def main() -> str | None:
    """Return the message for a failure, with the hard pages in it, or None."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    if not (hard := hard_pages(root)):
        return None
    limits = f"at most {MOST_COLONS} colons and semicolons, {MOST_PRONOUNS} of that/which/what/whose per 1,000 words"
    return "\n".join([f"Hard to read ({limits}):", *hard])


if __name__ == "__main__":
    sys.exit(main())
