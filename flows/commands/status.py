"""Show the runs and studies of a store in the terminal, without a server: `montessori status`."""

import argparse
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.commands.options import store_of
from montessori.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from montessori.artifacts import Store
    from tasks.runtime.status import Shard, Status

EXAMPLES = """examples:
  montessori status                      all runs and studies of ./store, the latest first
  montessori status tiny-1a2b3c4d        its tasks and shards; of several matches the latest
  montessori status tiny --watch         again every two seconds, until the run ends
  montessori status --store s3://bucket/montessori
"""
WATCH_EVERY_S = 2.0
BAR = 12  # characters
STYLES = {"done": "green", "cached": "cyan", "running": "bold", "failed": "red", "waiting": "dim"}


def add_parser(add: Any) -> None:
    """Add the command. `add` creates a subparser."""
    parser = add(
        "status",
        help="the tasks and shards of runs and studies: done, running, failed, retried",
        description="Show the runs and studies of a store, from the status that they write there.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="a run, refresh or study, or the beginning of its name (default: all)"
    )
    parser.add_argument("--watch", action="store_true", help="update it every two seconds")
    parser.add_argument("--store", metavar="STORE", default="store", help="(default: store)")


def status(options: argparse.Namespace) -> int:
    """Show all runs or one, and return the exit code."""
    from rich.console import Console

    store = store_of(options)
    console = Console()
    shown, again = _view(store, options.run, console)
    if not options.watch or not console.is_terminal:
        console.print(shown)
        return 0
    from rich.live import Live

    with suppress(KeyboardInterrupt), Live(shown, console=console, auto_refresh=False) as live:
        while again:
            time.sleep(WATCH_EVERY_S)
            shown, again = _view(store, options.run, console)
            live.update(shown, refresh=True)
    return 0


def _view(store: "Store", run: str | None, console: "Console") -> tuple["RenderableType", bool]:
    """Return the view of one run or of all, and whether it may still change."""
    from montessori.artifacts.catalogue import resolve
    from tasks.runtime import status as statuses

    runs, now = statuses.all_statuses(store), statuses.now()
    if run is None:
        return _all(runs, now, store.uri), True
    if not runs:
        raise InputError(f"RUN = {run}: no run or study has written its status to {store.uri}")
    beginning = run.rstrip("/")
    for each in runs:  # the latest first
        if each.run.startswith(beginning) or each.run.partition("/")[2].startswith(beginning):
            return _one(each, now, console), each.state == "running"
    resolve(beginning, [each.run for each in runs])  # raises the error that names the nearest run
    return "", False


def describe(run: "Status", now: datetime) -> tuple[str, str]:
    """Return the state in a word, and the age of the status."""
    from montessori.reporting.text import age

    if run.silent(now):
        ago = age(run.heard_s(now))
        return "silent", f"no word for {ago}: probably killed; the same command goes on"
    return run.state, f"last heard {age(run.heard_s(now))} ago"


def _all(runs: list["Status"], now: datetime, uri: str) -> "RenderableType":
    """Return a table with a row for each run."""
    from rich.table import Table

    if not runs:
        return f"No run or study has written its status to {uri}."
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("run", "state", "tasks", "last status"):
        table.add_column(name, overflow="fold", no_wrap=name == "run")
    for run in runs:
        state, heard = describe(run, now)
        done = f"{run.finished}/{len(run.shards)}"
        failed = sum(shard.state == "failed" for shard in run.shards)
        table.add_row(run.run, _styled(state), done + (f", {failed} failed" if failed else ""), heard)
    return table


def _one(run: "Status", now: datetime, console: "Console") -> "RenderableType":
    """Return a line on the run, then a row for each task and shard, in two lines where the console is narrow."""
    from rich.console import Group
    from rich.markup import escape

    from flows.commands.markdown_tables import fits

    state, heard = describe(run, now)
    head = f"[bold]{escape(run.run)}[/]  {_styled(state)}  {run.finished}/{len(run.shards)} tasks and shards, {heard}"
    where = f"{run.who['user']}@{run.who['host']}, begun {run.started:%Y-%m-%d %H:%M} UTC"
    since = run.heard_s(now) if state == "running" else None
    if run.run.startswith("studies/"):
        table = _cells(run.shards)
    else:
        table = _tasks(run.shards, since, below=False)
        if not fits(table, console, console.options):
            table = _tasks(run.shards, since, below=True)
    lines: list[RenderableType] = [head, f"[dim]{escape(where)}[/]", table]
    if run.error:
        lines.append(f"[red]{escape(run.error)}[/]")
    return Group(*lines)


def _cells(shards: list["Shard"]) -> "Table":
    """Return the grid of a study: a row for each cell, with its errors."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("cell", "state", "tasks", "running, error"):
        table.add_column(name, overflow="fold")
    cells: dict[str, list[Shard]] = {}
    for shard in shards:
        cells.setdefault(shard.cell, []).append(shard)
    for cell, members in cells.items():
        states = [shard.state for shard in members]
        finished = sum(state in ("done", "cached") for state in states)
        if finished == len(members):
            state = "cached" if set(states) == {"cached"} else "done"
        else:
            state = next((one for one in ("failed", "running") if one in states), "waiting")
        running = [shard.title for shard in members if shard.state == "running"]
        errors = [f"[red]{escape(shard.error)}[/]" for shard in members if shard.state == "failed"]
        notes = "; ".join([*errors, *map(escape, running)])
        table.add_row(escape(cell), _styled(state), f"{finished}/{len(members)}", notes)
    return table


def _tasks(shards: list["Shard"], since: float | None, below: bool) -> "Table":
    """Return a row for each shard, with its address or error `below` the title or beside it.

    `since` is the age of the status in seconds, or None when the run has ended.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    longest = max((len(shard.address) for shard in shards), default=0)  # never broken, so that it can be copied
    table.add_column("task", overflow="fold", width=longest if below else None)
    for name in ("state", "progress", "seconds"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    if not below:
        table.add_column("artifact, error", overflow="fold")
    for shard in shards:
        word = "was running" if shard.state == "running" and since is None else shard.state
        tries = f", attempt {shard.attempts}" if shard.state == "running" else f", {shard.attempts} attempts"
        state = _styled(word) + (tries if shard.attempts > 1 else "")
        where = f" on {escape(shard.where)}" if shard.where else ""
        took = shard.seconds + (since or 0.0 if shard.state == "running" else 0.0)
        seconds = f"{took:,.1f}" if shard.state in ("running", "done", "failed") else ""
        error = f"[red]{escape(shard.error)}[/]" if shard.error else f"[dim]{shard.address}[/]"
        title = escape(shard.title)
        row = (state + where, _progress(shard), seconds)
        table.add_row(*((f"{title}\n{error}", *row) if below else (title, *row, error)))
    return table


def _progress(shard: "Shard") -> str:
    """Return a bar while the shard runs, and its progress and rate."""
    if not shard.total:
        return ""
    filled = round(BAR * min(1.0, shard.done / shard.total))
    bar = f"{'━' * filled}[dim]{'━' * (BAR - filled)}[/] " if shard.state == "running" else ""
    return bar + shard.progress + (f", {shard.rate:.3g}/s" if shard.rate else "")


def _styled(state: str) -> str:
    style = STYLES.get(state) or {"silent": "yellow", "stopped": "yellow", "was running": "yellow"}[state]
    return f"[{style}]{state}[/]"
