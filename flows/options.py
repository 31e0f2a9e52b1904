"""Options that several commands have."""

from argparse import ArgumentParser


def add_settings(command: ArgumentParser, sets: str) -> None:
    """`--set` and `--store`; `sets` says what the first changes."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help=f"change {sets}; may be repeated",
    )
    command.add_argument("--store", metavar="DIR", help="short for --set store=DIR")


def add_start(command: ArgumentParser, dry_run: str) -> None:
    """`--place` and `--dry-run`; `dry_run` says what the latter shows."""
    command.add_argument(
        "--place", metavar="PLACE", help="short for --set compute.place=PLACE: process, inline or pool"
    )
    command.add_argument("--dry-run", action="store_true", help=f"show {dry_run}; start nothing")
