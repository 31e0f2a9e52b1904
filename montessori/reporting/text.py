"""Numbers and names as tables, figures and pages write them."""

import math
import re
from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Write 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rough_duration(seconds: float) -> str:
    """Write 0.4 s, 42 s, 44 min, 2.2 h."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:,.1f} h"


def age(seconds: float) -> str:
    """Write 12 s, 9 min, 3 h or 5 d: the time since then by the largest unit."""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds // 86400:,.0f} d"


def size(count: int) -> str:
    """Write `count` bytes in the unit that fits."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def compact(number: float) -> str:
    """Write 942, 13.2 k, 15.5 M, 1.20 G: three digits."""
    for unit in ("", " k", " M"):
        if number < 999.5:
            return f"{number:.3g}{unit}" if unit else f"{number:.0f}"
        number /= 1000
    return f"{number:.3g} G"


def percent(share: float, digits: int = 0) -> str:
    """Write a share between 0 and 1 as a percentage."""
    return f"{100 * share:.{digits}f}%"


def scientific(value: float, digits: int = 1) -> str:
    """Write −2.1×10⁻⁵."""
    if not math.isfinite(value):
        return "–"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa.replace('-', '−')}×10{superscript(int(exponent))}"


def superscript(exponent: int) -> str:
    """Set an exponent in small raised digits."""
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def short(address: str) -> str:
    """Return enough of an artifact's address to recognise it."""
    return address.rstrip("/").rsplit("/", 1)[-1][:10]


def label(text: str | None, limit: int | None = 30) -> str:
    """Return one printable line of at most `limit` characters; None is an unrecognised family."""
    if text is None:
        return "unrecognised"
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def clean(text: str) -> str:
    """Return `text` on one line, without unseen characters that could turn the text around it right to left."""
    line = re.sub(r"[^\S\u00a0]+", " ", text)
    return "".join(c for c in line if c.isprintable() or c == "\u00a0")


def listed(names: Sequence[str]) -> str:
    """Write a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def both_ends(text: str, limit: int = 32, end: int = 14) -> str:
    """Return `text` on one line; of a long text both ends, `end` characters of the last, where like names differ."""
    line = label(text, None)
    return line if len(line) <= limit else f"{line[: limit - end - 1]}…{line[-end:]}"


def count(number: int, noun: str) -> str:
    """Write 1 point, 1,024 points."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
