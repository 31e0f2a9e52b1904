"""What a run looks like in a terminal: a line for each stage at work, one more for each that is done, a table last.

Where the output is not a terminal (a log file, CI) only the finished lines are printed.
"""

from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from montessori.artifacts import Request, Store
from tasks.execution import Record

MARKS = {"done": "[green]done  [/]", "cached": "[cyan]cached[/]", "failed": "[red]failed[/]"}


class Screen:
    """Shows the records of an execution as they change."""

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
        """Take the bars off the screen."""
        self._progress.stop()

    def __enter__(self) -> "Screen":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def watch(self, address: str, record: Record, done: tuple[int, int, str, str] | None) -> None:
        """One change: a stage began, moved on, or ended."""
        if record.state == "running":
            if address not in self._bars:
                self._bars[address] = self._progress.add_task(record.title, total=None, what="")
            if done:
                finished, total, unit, note = done
                bar = self._bars[address]
                self._progress.update(
                    bar, completed=finished, total=total, what=self._what(bar, finished, total, unit, note)
                )
            return
        if (bar_id := self._bars.pop(address, None)) is not None:
            self._progress.remove_task(bar_id)
        if record.state in MARKS:
            took = f"{record.seconds:6.1f} s"
            note = f"[dim]{address}[/]" if record.state != "failed" else f"[red]{record.error}[/]"
            line = f"{MARKS[record.state]} {took}  {record.title}  {note}"
            # A window too narrow cuts the address; an error, and what goes into a file, stays whole.
            if self.console.is_terminal and record.state != "failed":
                self.console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")
            else:
                self.console.print(line, highlight=False, soft_wrap=True)

    def _what(self, bar: TaskID, done: int, total: int, unit: str, note: str) -> str:
        speed = next((task.speed for task in self._progress.tasks if task.id == bar), None)
        rate = f" {speed:.1f}/s" if speed else ""
        return f"{done}/{total} {unit}{rate}" + (f" {note}" if note else "")


def show_result(console: Console, result: Path) -> None:
    """The run's `result.md`: what was found, and the table of systems."""
    console.print(Markdown(result.read_text(encoding="utf-8")))


def show_plan(console: Console, requests: list[Request], store: Store) -> None:
    """What a run would do: each stage, its shards, and whether the store has it."""
    table = Table(title="Plan")
    for name in ("stage", "artifact", "in the store"):
        table.add_column(name, overflow="fold")
    for request in requests:
        table.add_row(request.title, request.address, "cached" if store.exists(request.address) else "to do")
    console.print(table)
    missing = sum(not store.exists(request.address) for request in requests)
    console.print(f"{len(requests)} stages and shards, {missing} to do. Nothing was started.")
