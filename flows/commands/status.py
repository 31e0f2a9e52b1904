"""`montessori status`: how the runs and studies of a store go, in the terminal, without a server."""

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
  montessori status                      all runs and studies of ./store, the one that spoke last first
  montessori status tiny-1a2b3c4d        its stages and shards; of several that begin so, the last
  montessori status tiny --watch         again every two seconds, until the run ends
  montessori status --store s3://bucket/montessori
"""
WATCH_EVERY_S = 2.0
BAR = 12  # characters
STYLES = {"done": "green", "cached": "cyan", "running": "bold", "failed": "red", "waiting": "dim"}


def add_parser(add: Any) -> None:
    """Add the command; `add` makes a subparser."""
    parser = add(
        "status",
        help="how runs and studies go: stages and shards done, running, failed, retried",
        description="How the runs and studies of a store go, by what they have written there themselves.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="a run, refresh or study, or how its name begins (default: all)"
    )
    parser.add_argument("--watch", action="store_true", help="show it again every two seconds")
    parser.add_argument("--store", metavar="STORE", default="store", help="(default: store)")


def status(options: argparse.Namespace) -> int:
    """Show what was asked for."""
    from rich.console import Console

    store = store_of(options)
    console = Console()
    shown, goes_on = _look(store, options.run, console)
    if not options.watch or not console.is_terminal:
        console.print(shown)
        return 0
    from rich.live import Live

    with suppress(KeyboardInterrupt), Live(shown, console=console, auto_refresh=False) as live:
        while goes_on:
            time.sleep(WATCH_EVERY_S)
            shown, goes_on = _look(store, options.run, console)
            live.update(shown, refresh=True)
    return 0


def _look(store: "Store", run: str | None, console: "Console") -> tuple["RenderableType", bool]:
    """What to show now, and whether it is worth another look."""
    from montessori.artifacts.catalogue import resolve
    from tasks.runtime import status as told

    runs, now = told.known(store), told.now()
    if run is None:
        return _all(runs, now, store.uri), True
    if not runs:
        raise InputError(f"RUN = {run}: no run or study has told the store {store.uri} how it goes")
    asked = run.rstrip("/")
    for found in runs:  # of several that begin so, the one that spoke last
        if found.run.startswith(asked) or found.run.partition("/")[2].startswith(asked):
            return _one(found, now, console), found.state == "running"
    resolve(asked, [found.run for found in runs])  # none, so this says what is near
    return "", False


def said(run: "Status", now: datetime) -> tuple[str, str]:
    """The state in a word, and how long ago that was said."""
    from montessori.reporting.text import age

    if run.silent(now):
        ago = age(run.heard_s(now))
        return "silent", f"no word for {ago}: probably killed; the same command goes on"
    return run.state, f"last heard {age(run.heard_s(now))} ago"


def _all(runs: list["Status"], now: datetime, uri: str) -> "RenderableType":
    """A line a run."""
    from rich.table import Table

    if not runs:
        return f"No run or study has told the store {uri} how it goes."
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("run", "state", "stages", "last word"):
        table.add_column(name, overflow="fold", no_wrap=name == "run")
    for run in runs:
        state, heard = said(run, now)
        done = f"{run.finished}/{len(run.shards)}"
        failed = sum(shard.state == "failed" for shard in run.shards)
        table.add_row(run.run, _styled(state), done + (f", {failed} failed" if failed else ""), heard)
    return table


def _one(run: "Status", now: datetime, console: "Console") -> "RenderableType":
    """The run in a line, then a line for each stage and shard, or two where the console is narrow."""
    from rich.console import Group
    from rich.markup import escape

    from flows.commands.markdown_tables import fits

    state, heard = said(run, now)
    head = f"[bold]{escape(run.run)}[/]  {_styled(state)}  {run.finished}/{len(run.shards)} stages and shards, {heard}"
    where = f"{run.who['user']}@{run.who['host']}, begun {run.started:%Y-%m-%d %H:%M} UTC"
    since = run.heard_s(now) if state == "running" else None
    if run.run.startswith("studies/"):
        table = _cells(run.shards)
    else:
        table = _stages(run.shards, since, below=False)
        if not fits(table, console, console.options):
            table = _stages(run.shards, since, below=True)
    lines: list[RenderableType] = [head, f"[dim]{escape(where)}[/]", table]
    if run.error:
        lines.append(f"[red]{escape(run.error)}[/]")
    return Group(*lines)


def _cells(shards: list["Shard"]) -> "Table":
    """A study's grid: a line a cell, with what fails in it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("cell", "state", "stages", "at work, error"):
        table.add_column(name, overflow="fold")
    cells: dict[str, list[Shard]] = {}
    for shard in shards:
        cells.setdefault(shard.cell, []).append(shard)
    for cell, its in cells.items():
        states = [shard.state for shard in its]
        finished = sum(state in ("done", "cached") for state in states)
        if finished == len(its):
            state = "cached" if set(states) == {"cached"} else "done"
        else:
            state = next((one for one in ("failed", "running") if one in states), "waiting")
        work = [shard.title for shard in its if shard.state == "running"]
        errors = [f"[red]{escape(shard.error)}[/]" for shard in its if shard.state == "failed"]
        table.add_row(escape(cell), _styled(state), f"{finished}/{len(its)}", "; ".join([*errors, *map(escape, work)]))
    return table


def _stages(shards: list["Shard"], since: float | None, below: bool) -> "Table":
    """A row a shard, its address or error `below` the title or beside it.

    `since` are the seconds since the run was heard of, None when it does not go on.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    longest = max((len(shard.address) for shard in shards), default=0)  # to be copied, so never broken
    table.add_column("stage", overflow="fold", width=longest if below else None)
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
    """A bar while it runs, and how fast it goes."""
    if not shard.total:
        return ""
    filled = round(BAR * min(1.0, shard.done / shard.total))
    bar = f"{'━' * filled}[dim]{'━' * (BAR - filled)}[/] " if shard.state == "running" else ""
    return bar + shard.progress + (f", {shard.rate:.3g}/s" if shard.rate else "")


def _styled(state: str) -> str:
    style = STYLES.get(state) or {"silent": "yellow", "stopped": "yellow", "was running": "yellow"}[state]
    return f"[{style}]{state}[/]"
