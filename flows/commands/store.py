"""List, show, verify and clean a store: `montessori store`."""

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
  montessori store ls runs                        the runs; likewise the artifacts of any task, for example student
  montessori store show student/3f2a              its files and inputs; the beginning of the address is enough
  montessori store verify                         read every byte, and list artifacts that differ from the manifests
  montessori store verify --delete-damaged        remove these; the next run makes them again
  montessori store gc                             artifacts that no run, refresh or champion needs; removes nothing
  montessori store gc --keep-runs 30d --delete    remove them, and the runs that are older than 30 days
  montessori store gc --drop tiny-1a2b3c4d --delete

Runs and refreshes are kept unless you say otherwise, and so is every teacher that was ever champion.
"""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
FILES_AT_ONCE = 4
KEPT_AS_RUNS = {"report", "refresh", "scorecard", "study"}  # tasks whose artifacts have an address with a name


def add_parser(add: Any) -> None:
    """Add the command and its four actions. `add` creates a subparser."""
    command = add(
        "store",
        help="a store's artifacts: ls, show, verify, gc",
        description="Look at a store, check it, and remove what nothing needs.",
        epilog=EXAMPLES,
    )
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--store", metavar="STORE", default="store", help="(default: store)")
        return parser

    ls = action("ls", "list artifacts: address, label, size, age, made by")
    ls.add_argument("task", metavar="TASK", nargs="?", default="", help="only those of this task, for example student")
    ls.add_argument("--json", action="store_true", help="print JSON")
    show = action("show", "show one artifact: files, parents, settings, seconds, versions")
    show.add_argument("address", metavar="ADDRESS", help="like student/3f2a…, or its beginning")
    verify = action("verify", "read every byte and compare it with the manifests")
    verify.add_argument("addresses", metavar="ADDRESS", nargs="*", help="only these (default: all)")
    verify.add_argument("--delete-damaged", action="store_true", help="remove them, so that the next run makes them")
    gc = action("gc", "remove what no kept run, refresh or champion needs; without --delete only show it")
    gc.add_argument("--delete", action="store_true", help="remove it (default: only show it)")
    gc.add_argument(
        "--grace", type=duration, default="24h", metavar="TIME", help="keep younger artifacts (default: 24h)"
    )
    gc.add_argument("--keep-runs", type=duration, metavar="TIME", help="keep runs younger than TIME, like 30d (all)")
    gc.add_argument("--drop", action="append", default=[], metavar="RUN", help="do not keep this run; may be repeated")


def duration(text: str) -> float:
    """Return the seconds in 90s, 30m, 24h, 30d or 2w, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])|0", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text}: expected a time like 12h or 30d")
    return float(match[1] or 0) * UNITS[match[2] or "s"]


def store(options: argparse.Namespace) -> int:
    """Run the action, print its result, and return the exit code."""
    store = store_of(options)
    return {"ls": _ls, "show": _show, "verify": _verify, "gc": _gc}[options.action](store, options)


def _ls(store: "Store", options: argparse.Namespace) -> int:
    from montessori.artifacts.catalogue import entries, newest_first

    listed = newest_first(entries(store, options.task))
    if options.task and not listed:
        _check_task(options.task)
    if options.json:
        sys.stdout.write(json.dumps([_as_json(entry) for entry in listed], indent=1) + "\n")
        return 0
    if not listed:
        sentence = f"{store.uri} has no artifact" + (f" of task {options.task}" if options.task else "")
        sys.stdout.write(sentence + "\n")
    rows = [(e.address, e.label, _size(e.bytes), _age(e), e.made_by) for e in listed]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
    for address, label, size, age, made_by in rows:
        line = f"{address:<{widths[0]}}  {label:<{widths[1]}}  {size:>{widths[2]}}  {age:>{widths[3]}}  {made_by}"
        sys.stdout.write(line + "\n")
    return 0


def _check_task(task: str) -> None:
    """Raise InputError that names the known tasks when no address can begin with `task`."""
    from montessori.artifacts.catalogue import RUNS
    from tasks.registry import TASKS

    known = sorted({*RUNS, *TASKS} - KEPT_AS_RUNS)
    if task not in known:
        raise InputError(f"TASK = {task}: no such task; {files.hint(task, known)}")


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
        "task": f"{request.get('stage', entry.stage)}, version {request.get('version', '?')}",
        "seed": request.get("seed", ""),
        "size": f"{_size(entry.bytes)} in {len(manifest['files'])} files",
    }
    for fact, value in lines.items():
        sys.stdout.write(f"{fact:<9} {value}\n")
    chapters: dict[str, Iterable[str]] = {
        "files": [f"{_size(file['bytes']):>9}  {name}" for name, file in manifest["files"].items()],
        "made from": [f"{role}: {each}" for role, addresses in request.get("inputs", {}).items() for each in addresses],
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
    checked = entries(store)
    if options.addresses:
        by_address = {entry.address: entry for entry in checked}
        chosen = dict.fromkeys(resolve(address, by_address) for address in options.addresses)
        checked = [by_address[address] for address in chosen]
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar, ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        task = bar.add_task("", total=sum(entry.bytes for entry in checked))

        def check(entry: Entry) -> str | None:
            return find_damage(store, entry.address, lambda count: bar.advance(task, count))

        damage = {e.address: kind for e, kind in zip(checked, pool.map(check, checked), strict=True) if kind}
    gone = set(damage) - set(store.addresses()) if damage else set()  # deleted meanwhile
    for address in sorted(set(damage) - gone):
        if options.delete_damaged:
            store.delete(address)
        sys.stdout.write(f"{'removed' if options.delete_damaged else 'damaged'}  {address}  {damage[address]}\n")
    damaged = len(damage) - len(gone)
    if not checked:
        sys.stdout.write(f"{store.uri} has no artifact\n")
        return 0
    size = _size(sum(entry.bytes for entry in checked))
    sys.stdout.write(f"{len(checked)} artifacts, {size}: {damaged or 'none'} damaged\n")
    return 1 if damaged else 0


def _gc(store: "Store", options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from montessori.artifacts import gc
    from montessori.artifacts.catalogue import RUNS, entries
    from montessori.reporting.text import count
    from tasks.runtime import retention

    runs = [entry for kind in RUNS for entry in entries(store, kind)]
    dropped = {_exact_address(name, [entry.address for entry in runs]) for name in options.drop}
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


def _exact_address(name: str, runs: list[str]) -> str:
    """Return the address of the run `name`. A beginning is not enough, and raises InputError with the nearest name."""
    from montessori.artifacts.catalogue import resolve

    for address in runs:
        if name.rstrip("/") in (address, address.partition("/")[2]):
            return address
    near = resolve(name, runs)
    raise InputError(f"--drop {name}: not the whole name of a run; do you mean {near}?")


def _show_plan(console: "Console", planned: "Garbage") -> None:
    """Print what would be removed and kept, a row for each task."""
    from rich.table import Table

    from montessori.reporting.text import count

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("task")
    for name in ("to remove", "size", "to keep", "size"):
        table.add_column(name, justify="right")
    counts = [Counter(entry.stage for entry in part) for part in (planned.removed, planned.kept)]
    sizes = [_bytes_by_task(part) for part in (planned.removed, planned.kept)]
    for task in sorted(counts[0] | counts[1]):
        cells = (f"{counts[0][task]:,}", _size(sizes[0][task]), f"{counts[1][task]:,}", _size(sizes[1][task]))
        table.add_row(task, *cells)
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


def _bytes_by_task(entries: Iterable["Entry"]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for entry in entries:
        sizes[entry.stage] += entry.bytes
    return sizes


def _size(count: int) -> str:
    from montessori.reporting.text import size

    return size(count)


def _age(entry: "Entry") -> str:
    from montessori.reporting.text import age

    return age(max(0.0, (datetime.now(UTC) - entry.made).total_seconds())) if entry.made else "?"
