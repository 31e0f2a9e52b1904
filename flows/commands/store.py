"""`montessori store`: what is in a store, whether it is whole, and what of it may go."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from flows.commands.options import store_of
from montessori.errors import InputError
from montessori.settings import files

if TYPE_CHECKING:
    from rich.console import Console

    from montessori.artifacts import Store
    from montessori.artifacts.catalogue import Entry
    from montessori.artifacts.gc import Garbage

EXAMPLES = """examples:
  montessori store ls                             all artifacts: runs and refreshes, then the others, the newest first
  montessori store ls runs                        the runs; likewise any other stage, for example student
  montessori store show student/3f2a              what it is made of and from; the beginning of the address will do
  montessori store verify                         read every byte of all, and say which differ from what was committed
  montessori store verify --delete-damaged        remove those: the next run makes them again
  montessori store gc                             what no run, refresh or champion needs; removes nothing
  montessori store gc --keep-runs 30d --delete    remove it, with the runs that are older than 30 days
  montessori store gc --drop tiny-1a2b3c4d --delete

Runs and refreshes are kept unless you say otherwise, and so is every teacher that was ever champion.
"""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
FILES_AT_ONCE = 4
KEPT_AS_RUNS = {"report", "refresh", "scorecard", "study"}  # stages whose artifacts have a run's kind of address


def add_parser(add: Any) -> None:
    """Add the command and its four actions; `add` makes a subparser."""
    command = add(
        "store",
        help="a store's artifacts: ls, show, verify, gc",
        description="Look at a store, check it, and remove what nothing needs.",
        epilog=EXAMPLES,
    )
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = actions.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        found.add_argument("--store", metavar="STORE", default="store", help="(default: store)")
        return found

    ls = action("ls", "list artifacts: address, label, size, age, made by")
    ls.add_argument("stage", metavar="STAGE", nargs="?", default="", help="only those of this stage, for example runs")
    ls.add_argument("--json", action="store_true", help="for programs")
    show = action("show", "show one artifact: files, parents, settings, seconds, versions")
    show.add_argument("address", metavar="ADDRESS", help="like student/3f2a…, or how it begins")
    verify = action("verify", "read every byte and compare it with what was committed")
    verify.add_argument("addresses", metavar="ADDRESS", nargs="*", help="only these (default: all)")
    verify.add_argument("--delete-damaged", action="store_true", help="remove them, so that the next run makes them")
    gc = action("gc", "remove what no kept run, refresh or champion was made from; shows it, unless --delete is given")
    gc.add_argument("--delete", action="store_true", help="remove it (default: only show it)")
    gc.add_argument("--grace", type=duration, default="24h", metavar="TIME", help="keep what is younger (default: 24h)")
    gc.add_argument("--keep-runs", type=duration, metavar="TIME", help="keep runs younger than that, as 30d (all)")
    gc.add_argument("--drop", action="append", default=[], metavar="RUN", help="do not keep this one; may be repeated")


def duration(text: str) -> float:
    """Seconds in 90s, 30m, 24h, 30d, 2w; for argparse."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])|0", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: expected a time like 12h or 30d")
    return float(found[1] or 0) * UNITS[found[2] or "s"]


def store(options: argparse.Namespace) -> int:
    """Do what was asked, and print what came of it; the exit code."""
    store = store_of(options)
    return {"ls": _ls, "show": _show, "verify": _verify, "gc": _gc}[options.action](store, options)


def _ls(store: "Store", options: argparse.Namespace) -> int:
    from montessori.artifacts.catalogue import entries, newest_first

    found = newest_first(entries(store, options.stage))
    if options.stage and not found:
        _check_stage(options.stage)
    if options.json:
        sys.stdout.write(json.dumps([_as_json(entry) for entry in found], indent=1) + "\n")
        return 0
    if not found:
        where = f"{store.uri} has no artifact" + (f" of stage {options.stage}" if options.stage else "")
        sys.stdout.write(where + "\n")
    rows = [(e.address, e.label, _size(e.bytes), _age(e), e.made_by) for e in found]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
    for address, label, size, age, made_by in rows:
        line = f"{address:<{widths[0]}}  {label:<{widths[1]}}  {size:>{widths[2]}}  {age:>{widths[3]}}  {made_by}"
        sys.stdout.write(line + "\n")
    return 0


def _check_stage(stage: str) -> None:
    """Raise InputError with what is known when no address can begin with `stage`."""
    from montessori.artifacts.catalogue import RUNS
    from tasks.registry import TASKS

    known = sorted({*RUNS, *TASKS} - KEPT_AS_RUNS)
    if stage not in known:
        raise InputError(f"STAGE = {stage}: no such stage; {files.hint(stage, known)}")


def _as_json(entry: "Entry") -> dict[str, Any]:
    return {
        "address": entry.address,
        "label": entry.label,
        "bytes": entry.bytes,
        "made": entry.made.isoformat() if entry.made else None,
        "made_by": entry.made_by,
        "seconds": entry.manifest.get("seconds") if entry.manifest else None,
    }


def _show(store: "Store", options: argparse.Namespace) -> int:
    from montessori.artifacts.catalogue import Entry, resolve
    from montessori.reporting.text import duration
    from montessori.settings import files

    address = resolve(options.address, store.addresses())
    manifest = store.manifest(address)
    entry = Entry(address, manifest)
    request = manifest.get("request", {})
    who = manifest["made_by"]
    lines = {
        "artifact": address,
        "label": entry.label,
        "where": store.locate(address),
        "made": f"{who['time']}, {entry.made_by}, in {duration(manifest.get('seconds', 0))}",
        "stage": f"{request.get('stage', entry.stage)}, version {request.get('version', '?')}",
        "seed": request.get("seed", ""),
        "size": f"{_size(entry.bytes)} in {len(manifest['files'])} files",
    }
    for what, value in lines.items():
        sys.stdout.write(f"{what:<9} {value}\n")
    chapters: dict[str, Iterable[str]] = {
        "files": [f"{_size(file['bytes']):>9}  {name}" for name, file in manifest["files"].items()],
        "made from": [
            f"{role}: {given}" for role, addresses in request.get("inputs", {}).items() for given in addresses
        ],
        "settings": files.dump(request["settings"]).splitlines() if request.get("settings") else [],
        "versions": [f"{name} {version}" for name, version in manifest.get("versions", {}).items()],
    }
    for title, body in chapters.items():
        if body:
            sys.stdout.write(f"\n{title}\n" + "".join(f"  {line}\n" for line in body))
    return 0


def _verify(store: "Store", options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from montessori.artifacts.catalogue import Entry, entries, resolve
    from montessori.artifacts.store import find_damage

    if options.delete_damaged:
        store.check_writable()
    found = entries(store)
    if options.addresses:
        by_address = {entry.address: entry for entry in found}
        asked = dict.fromkeys(resolve(address, by_address) for address in options.addresses)
        found = [by_address[address] for address in asked]
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar, ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        task = bar.add_task("", total=sum(entry.bytes for entry in found))

        def check(entry: Entry) -> str | None:
            return find_damage(store, entry.address, lambda count: bar.advance(task, count))

        wrong = {e.address: what for e, what in zip(found, pool.map(check, found), strict=True) if what}
    gone = set(wrong) - set(store.addresses()) if wrong else set()  # somebody has deleted them meanwhile
    for address in sorted(set(wrong) - gone):
        if options.delete_damaged:
            store.delete(address)
        sys.stdout.write(f"{'removed' if options.delete_damaged else 'damaged'}  {address}  {wrong[address]}\n")
    damaged = len(wrong) - len(gone)
    if not found:
        sys.stdout.write(f"{store.uri} has no artifact\n")
        return 0
    size = _size(sum(entry.bytes for entry in found))
    sys.stdout.write(f"{len(found)} artifacts, {size}: {damaged or 'none'} damaged\n")
    return 1 if damaged else 0


def _gc(store: "Store", options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from montessori.artifacts import gc
    from montessori.artifacts.catalogue import RUNS, entries
    from montessori.reporting.text import count
    from tasks.runtime import retention

    runs = [entry for stage in RUNS for entry in entries(store, stage)]
    dropped = {_exactly(name, [entry.address for entry in runs]) for name in options.drop}
    oldest = datetime.now(UTC).timestamp() - options.keep_runs if options.keep_runs is not None else 0.0
    kept = [e.address for e in runs if e.address not in dropped and (not e.made or e.made.timestamp() >= oldest)]
    if options.delete:
        store.check_writable()
    planned = gc.find_garbage(store, retention.roots(store, kept, options.grace), options.grace, dropped)
    console = Console()
    _show_plan(console, planned)
    if not options.delete:
        if planned.removed or planned.journals or planned.orphans:
            sys.stdout.write("\nNothing was removed; the same command with --delete does it.\n")
        return 0
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("removing", total=len(planned.removed))
        in_use = partial(retention.in_use, store, options.grace)
        removed = gc.collect(store, planned, in_use, lambda: bar.advance(task))
    retention.remove_old_statuses(store, options.grace)
    sys.stdout.write(f"\nRemoved {count(len(removed), 'artifact')}, {_size(sum(e.bytes for e in removed))}.\n")
    return 0


def _exactly(name: str, runs: list[str]) -> str:
    """The run of that name. Raises InputError with the nearest: a beginning will not do to remove something."""
    from montessori.artifacts.catalogue import resolve

    for address in runs:
        if name.rstrip("/") in (address, address.partition("/")[2]):
            return address
    near = resolve(name, runs)
    raise InputError(f"--drop {name}: not the whole name of a run; do you mean {near}?")


def _show_plan(console: "Console", planned: "Garbage") -> None:
    """What goes and what stays, a line a stage."""
    from rich.table import Table

    from montessori.reporting.text import count

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stage")
    for name in ("to remove", "size", "to keep", "size"):
        table.add_column(name, justify="right")
    counts = [Counter(entry.stage for entry in part) for part in (planned.removed, planned.kept)]
    sizes = [_bytes(part) for part in (planned.removed, planned.kept)]
    for stage in sorted(counts[0] | counts[1]):
        cells = (f"{counts[0][stage]:,}", _size(sizes[0][stage]), f"{counts[1][stage]:,}", _size(sizes[1][stage]))
        table.add_row(stage, *cells)
    total = [text for c, s in zip(counts, sizes, strict=True) for text in (f"{c.total():,}", _size(s.total()))]
    table.add_row("in all", *total, style="bold")
    console.print(table)
    if planned.journals:
        size = _size(sum(journal.bytes for journal in planned.journals))
        console.print(f"journals of {count(len(planned.journals), 'unfinished artifact')}, {size}", highlight=False)
        for journal in planned.journals:
            console.print(f"  {journal.address}", highlight=False)
    if planned.orphans:
        console.print(f"left by writers that were killed: {_size(planned.orphans)}", highlight=False)


def _bytes(found: Iterable["Entry"]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for entry in found:
        sizes[entry.stage] += entry.bytes
    return sizes


def _size(count: int) -> str:
    from montessori.reporting.text import size

    return size(count)


def _age(entry: "Entry") -> str:
    from montessori.reporting.text import age

    return age(max(0.0, (datetime.now(UTC) - entry.made).total_seconds())) if entry.made else "?"
