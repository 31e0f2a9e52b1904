"""Show a run in a terminal: a bar for each running task, a line for each finished task, and a table at the end.

Without a terminal (a log file, CI) only the lines of finished tasks are printed.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from flows.commands.markdown_tables import FittedMarkdown
from flows.requests.builder import Plan
from montessori.artifacts import Request, Store
from montessori.reporting.scores import Scores
from montessori.reporting.text import compact, count, label, percent, rough_duration, scientific, size
from montessori.settings.execution import Budget
from tasks.registry import TASKS
from tasks.runtime.estimate import Line, total
from tasks.runtime.executor import Progress as Step
from tasks.runtime.executor import Record

EXTREMES = 3  # points shown at either end
MARKS = {"done": "[green]done  [/]", "cached": "[cyan]cached[/]", "failed": "[red]failed[/]"}


class Screen:
    """Shows the records of an executor as they change."""

    def __init__(self, console: Console):
        self.console = console
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[what]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            expand=True,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def stop(self) -> None:
        """Remove the bars from the screen."""
        self._progress.stop()

    def __enter__(self) -> "Screen":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def update(self, record: Record, progress: Step | None) -> None:
        """Show a change: a task began, progressed or ended."""
        address = record.request.address
        if record.state == "running":
            if address not in self._bars:
                self._bars[address] = self._progress.add_task(record.title, total=None, what="")
            if progress:
                done, total, _, _ = progress
                bar = self._bars[address]
                self._progress.update(bar, completed=done, total=total, what=self._describe(bar, progress))
            return
        if (bar_id := self._bars.pop(address, None)) is not None:
            self._progress.remove_task(bar_id)
        if record.state in MARKS:
            took = " " * 8 if record.state == "cached" else f"{record.seconds:6.1f} s"
            note = f"[dim]{address}[/]" if record.state != "failed" else f"[red]{escape(str(record.error))}[/]"
            line = f"{MARKS[record.state]} {took}  {escape(record.title)}  {note}"
            # A narrow window cuts the address. An error or a line in a file stays whole.
            if self.console.is_terminal and record.state != "failed":
                self.console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")
            else:
                self.console.print(line, highlight=False, soft_wrap=True)

    def _describe(self, bar: TaskID, progress: Step) -> str:
        done, total, unit, note = progress
        speed = next((task.speed for task in self._progress.tasks if task.id == bar), None)
        rate = f" {speed:.1f}/s" if speed else ""
        return f"{done}/{total} {unit}{rate}" + (f" {note}" if note else "")


class Warnings(logging.Handler):
    """Shows the warnings of a flow's log. The other lines are Prefect's own."""

    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning as a line."""
        if record.levelno == logging.WARNING:
            line = f"[yellow]warning[/] {escape(record.getMessage())}"
            self._console.print(line, highlight=False, soft_wrap=True)


class ScoreScreen(Screen):
    """Shows a scoring with one bar for the points of all shards, and one line at the end."""

    def __init__(self, console: Console, shards: list[str], points: int):
        super().__init__(console)
        self._shards, self._points = shards, points
        self._states: dict[str, str] = {}
        self._done: dict[str, int] = {}  # points of each shard that this process ran
        self._rates: dict[str, str] = {}  # tokens per second of each running shard
        self._seconds = 0.0
        self._bar: TaskID | None = None

    def update(self, record: Record, progress: Step | None) -> None:
        """Show a change. Cached points are not in the bar, since they would distort its speed."""
        address = record.request.address
        if address not in self._shards or record.state == "failed" or not self.console.is_terminal:
            super().update(record, progress)
            return
        self._states[address] = record.state
        if progress:
            self._done[address], self._rates[address] = progress[0], progress[3]
        if record.state in ("done", "cached"):
            self._rates.pop(address, None)
            self._seconds += record.seconds if record.state == "done" else 0
            if len(self._states) == len(self._shards) and set(self._states.values()) <= {"done", "cached"}:
                self._close()
            return
        if self._bar is None:
            cached = sum(state == "cached" for state in self._states.values())
            todo = round(self._points * (1 - cached / len(self._shards)))
            self._bar = self._progress.add_task("scoring", total=todo, what="")
        finished = sum(self._done.values())
        tokens = sum(float(note.split()[0].replace(",", "")) for note in self._rates.values() if note)
        total = next((task.total for task in self._progress.tasks if task.id == self._bar), None)
        note = f"{tokens:,.0f} tokens/s" if tokens else ""
        what = self._describe(self._bar, (finished, round(total or 0), "points", note))
        self._progress.update(self._bar, completed=finished, what=what)

    def _close(self) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        cached = sum(state == "cached" for state in self._states.values())
        count = len(self._shards)
        state = "cached" if cached == count else "done"
        note = f"{count} shard{'' if count == 1 else 's'}" + (f", {cached} of them done before" if cached else "")
        took = " " * 8 if state == "cached" else f"{self._seconds:6.1f} s"
        line = f"{MARKS[state]} {took}  influence of {self._points:,} points  [dim]{note}[/]"
        self.console.print(line, highlight=False, soft_wrap=True)


def show_scores(
    console: Console, scores: Scores, summary: dict[str, Any], *, instructions: dict[str, str], files: list[Path]
) -> None:
    """Show the result of a scoring: the distribution, the extreme points, the warnings, and the paths of the files.

    `instructions` are the texts of the points by id.
    """
    console.print(f"\n[bold]Influence[/] of {summary['step']['words']}\n", highlight=False)
    console.print(_distribution(summary))
    ranked = sorted((row for row in scores.rows if row["influence"] is not None), key=lambda row: row["influence"])
    for name, rows in (("Most influential", ranked[: -EXTREMES - 1 : -1]), ("Least influential", ranked[:EXTREMES])):
        if rows:
            console.print(f"\n[bold]{name}[/]")
        for row in rows:
            answer = f"({count(row['tokens'], 'token')}, loss {row['training_loss']:.3f})"
            line = f"  {signed(row['influence'])}  {row['id']}  {answer}  {label(instructions[row['id']], 200)}"
            console.print(line, highlight=False, markup=False, no_wrap=True, overflow="ellipsis")
    for warning in summary["warnings"]:
        console.print(f"\n[yellow]warning[/] {escape(warning)}.", highlight=False)
    names = ("scores", "summary", "figure", "figure")
    console.print()
    for name, path in zip(names, files, strict=False):
        console.print(f"{name:<8} {path}", highlight=False, markup=False, soft_wrap=True)


def _distribution(summary: dict[str, Any]) -> Table:
    """Return a table with the numbers of a scoring."""
    influence, speed, reference = summary["influence"], summary["speed"], summary["reference"]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    if influence["points"]:
        q = influence["quantiles"]
        spread = influence["standard_deviation"]
        table.add_row(
            "mean ± spread", f"{signed(influence['mean'])} ± {scientific(spread) if spread else '–'} nats/token"
        )
        table.add_row("5%, median, 95%", f"{signed(q['0.05'])}   {signed(q['0.50'])}   {signed(q['0.95'])}")
        table.add_row("above zero", percent(influence["share_above_zero"], 1))
        momentum = influence["momentum_influence"]
        if momentum:
            table.add_row("above I(∅)", f"{percent(influence['share_above_momentum'], 1)}   I(∅) = {signed(momentum)}")
    statuses = ", ".join(f"{number:,} {status}" for status, number in summary["statuses"].items())
    truncated = summary["points"]["truncated"]
    table.add_row("points", statuses + (f" ({truncated:,} cut at the maximum length)" if truncated else ""))
    table.add_row("reference", f"{reference['n']:,} examples, loss {reference['loss']:.4f} nats/token")
    if check := summary["check"]:
        rank = "–" if check["spearman"] is None else f"{check['spearman']:.3f}"
        table.add_row("rank correlation", f"{rank} with {check['against']}, on {check['points']} points")
    ranks = {name: spread["spearman_with_influence"] for name, spread in summary["lengths"].items()}
    if ranks and None not in ranks.values():
        told = f"{ranks['tokens']:+.2f} with the answer's tokens, {ranks['training_loss']:+.2f} with its loss"
        table.add_row("rank correlation", told)
    table.add_row(
        "speed",
        f"{speed['points_per_second']:.3g} points/s, {speed['tokens_per_second']:,.0f} tokens/s a process, "
        "loading included",
    )
    return table


def signed(value: float) -> str:
    """Return a number with its sign, like +2.1×10⁻⁵."""
    return ("+" if value >= 0 else "") + scientific(value)


def show_result(console: Console, result: Path) -> None:
    """Show the `result.md` of a run: its finding, and the table of systems."""
    console.print(FittedMarkdown(result.read_text(encoding="utf-8")))


def show_estimate(console: Console, lines: list[Line], assumed: tuple[str, ...], budget: Budget) -> None:
    """Show an estimate, a row for each task, with its assumptions. Warn if it exceeds the budget."""
    shown = [line for line in lines if line.prompts or TASKS[line.task].cost.work]
    other = total((line for line in lines if line not in shown), "other")  # rows copied and sorted
    whole = total(lines)
    priced = ["price"] if whole.usd is not None else []
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("task", "prompts", "read", "written", "time", "size", *priced, "basis"):
        table.add_column(name, justify="left" if name in ("task", "basis") else "right", no_wrap=True)
    for line in [*shown, other, whole]:
        table.add_row(
            f"{line.task} ×{line.artifacts}" if line.artifacts > 1 and line is not whole else line.task,
            *(compact(number) if number else "" for number in (line.prompts, line.tokens_in, line.tokens_out)),
            "?" if line.hours is None else rough_duration(line.hours * 3600),
            size(round(line.bytes)),
            *(["" if line.usd is None else f"${line.usd:,.2f}"] if priced else []),
            next((basis for basis in ("assumed", "measured") if basis in line.basis), "made"),
            style="bold" if line is whole else "",
        )
    console.print(table)
    console.print(
        "\nRead, written: tokens of the teacher. Time: all tasks one after the other,\n"
        "on one GPU where a model has half a billion parameters or more.\n"
        "Made: all is in the store. Measured: partly from similar tasks of other runs.\n"
        "Assumed: partly from the lengths of the seeds and from stated speeds.",
        highlight=False,
    )
    if assumed:
        console.print(f"Assumed further: {'; '.join(assumed)}.", highlight=False, markup=False)
    for name, used in (("usd", whole.usd), ("tokens", whole.tokens_in + whole.tokens_out), ("hours", whole.hours)):
        limit = getattr(budget, name)
        if limit is not None and used is not None and used > limit:
            console.print(f"[yellow]warning[/] budget.{name} = {limit:,g} is too low: the estimate is {used:,.3g}")


def show_grid(console: Console, names: Iterable[str], requests: list[Request], store: Store) -> None:
    """Show the plan of a study: the number of tasks and of missing artifacts in each cell."""
    cells: dict[str, list[bool]] = {name: [] for name in names}
    for request in requests:
        cells.setdefault(request.cell, []).append(store.exists(request.address))
    table = Table(title="Grid")
    table.add_column("cell", overflow="fold")
    for name in ("tasks", "to do"):
        table.add_column(name, justify="right")
    for cell, cached in cells.items():
        todo = str(cached.count(False)) if not all(cached) else "cached"
        table.add_row(cell, str(len(cached)), todo if cached else "shared")
    console.print(table)
    missing = sum(cached.count(False) for cached in cells.values())
    console.print(
        f"{len(cells)} cells, {len(requests)} tasks and shards, {missing} to do. "
        "A shared task counts in its first cell. Nothing was started."
    )


def show_plan(console: Console, plan: Plan) -> None:
    """Show the plan of a run: each task and shard, cached or to do."""
    requests = list(plan.requests.values())
    cached = [plan.store.exists(request.address) for request in requests]
    width = max((len(request.address) for request in requests), default=0)
    for request, is_cached in zip(requests, cached, strict=True):
        # No table, since a narrow window would break the addresses, and people copy them.
        line = f"{'cached' if is_cached else 'to do '}  {request.address:<{width}}  {request.title}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(requests)} tasks and shards, {cached.count(False)} to do. Nothing was started.")
