"""Show, promote and roll back a store's champion teachers: `montessori champion`."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from flows.commands.options import store_of
from montessori.errors import InputError

if TYPE_CHECKING:
    from montessori.artifacts import Store
    from montessori.artifacts.store import Manifest
    from montessori.evaluation.paired import PairedTest
    from montessori.refresh.champions import Change

EXAMPLES = """examples:
  montessori champion show                                the champion, with the date and the reason
  montessori champion history --name tiny                 all champions, and the nights without a promotion
  montessori champion promote teacher/3f2a… --name tiny   make that teacher the champion, untested
  montessori champion rollback --name tiny                restore the champion before the last promotion

A teacher's address is in the table of a run's report, and in the folder store/teacher. The nightly refresh starts from
the champion, or after a rollback from the restored one.
"""
HOW = {"test": "by the test", "hand": "by hand", "rollback": "rollback"}


def add_parser(add: Any) -> None:
    """Add the command and its four actions. `add` creates a subparser."""
    champion = add(
        "champion",
        help="the best teacher so far: show, history, promote, rollback",
        description="The champion is the teacher that the nightly refresh starts from and has to beat.",
        epilog=EXAMPLES,
    )
    actions = champion.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, help in (
        ("show", "the champion, with the date and the reason"),
        ("history", "every change and every night that kept the champion, the oldest first"),
        ("promote", "make a teacher the champion by hand"),
        ("rollback", "take the last promotion back"),
    ):
        parser = actions.add_parser(
            action,
            help=help,
            description=help.capitalize() + ".",
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if action == "promote":
            parser.add_argument("teacher", metavar="TEACHER", help="its address, like teacher/3f2a…")
        parser.add_argument("--name", metavar="NAME", help="name of its settings (default: the store's only one)")
        parser.add_argument("--store", metavar="STORE", default="store", help="(default: store)")


def champion(options: argparse.Namespace) -> int:
    """Run the action, print its result, and return the exit code."""
    from montessori.refresh import champions, nights

    store = store_of(options)
    name = options.name or _only_name(champions.names(store), options)
    if options.action in ("promote", "rollback"):
        store.check_writable()
        entry = (
            champions.promote(store, name, options.teacher)
            if options.action == "promote"
            else champions.rollback(store, name)
        )
        _show(store, name, entry)
        return 0
    entries = champions.history(store, name)
    kept = nights.with_kept_champion(store, name) if options.action == "history" else []
    if not entries and not kept:
        others = ", ".join(champions.names(store)) or "none"
        raise InputError(f"--name = {name}: no such champion in {store.uri}, which has: {others}")
    if options.action == "show":
        _show(store, name, entries[-1])
    else:
        _list(entries, kept)
    return 0


def _only_name(names: list[str], options: argparse.Namespace) -> str:
    if not names:
        raise InputError(f"there is no champion in {options.store} yet; give the --name that it is to have")
    if len(names) != 1:
        raise InputError(f"--name is missing: the store {options.store} has champions for: {', '.join(names)}")
    return names[0]


def _show(store: "Store", name: str, entry: "Change") -> None:
    """Print one entry, a line for each fact."""
    lines = {
        "champion": f"{name}, entry {entry.number}",
        "teacher": entry.teacher,
        "folder": store.locate(entry.teacher) if store.exists(entry.teacher) else "not in this store",
        "since": f"{entry.who['time']}, {HOW[entry.how]}, {entry.who['user']}@{entry.who['host']}",
        "made by": entry.made_by or "unknown",
        "before": entry.replaces or "none",
    }
    if test := entry.test:
        lines["test"] = (
            f"reference loss {test.difference:.4g} ± {test.standard_error:.2g} nats/token lower, "
            f"p = {test.p_value:.2g}, {test.n:,} examples, {test.seeds} pairs of students"
        )
    for fact, value in lines.items():
        sys.stdout.write(f"{fact:<9} {value}\n")


def _list(entries: list["Change"], kept: list["Manifest"]) -> None:
    """Print a line for each entry and for each night that kept the champion, by time."""
    from montessori.evaluation.paired import PairedTest

    rows = [(e.who, f"{e.number:>4}", e.teacher, HOW[e.how], _difference(e.test) if e.test else "") for e in entries]
    for manifest in kept:
        night = manifest["summary"]
        difference = _difference(PairedTest.model_validate(night["test"]))
        note = f"night {night['night']}, {night['challenger']}: {difference}"
        rows.append((manifest["made_by"], "   –", night["champion"], "kept", note))
    width = max(len(teacher) for _, _, teacher, _, _ in rows)
    for who, number, teacher, how, note in sorted(rows, key=lambda row: row[0]["time"]):
        line = f"{number}  {who['time']}  {teacher:<{width}}  {how:<11}  {who['user']}@{who['host']}"
        sys.stdout.write(f"{line}  {note}".rstrip() + "\n")


def _difference(test: "PairedTest") -> str:
    """Return the difference of the reference losses of the challenger's and the champion's students, in words."""
    word = "lower" if test.difference >= 0 else "higher"
    return f"{abs(test.difference):.4g} ± {test.standard_error:.2g} {word}, p = {test.p_value:.2g}"
