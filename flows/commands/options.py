"""Add and read the options that several commands share."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from montessori.errors import InputError
from montessori.settings import files, shipped
from montessori.settings.run import Settings

if TYPE_CHECKING:
    from montessori.artifacts import Store

SHORT = {"iterations": "iterations", "store": "store", "place": "compute.place"}  # shorthand for settings


def add_settings(command: ArgumentParser, sets: str) -> None:
    """Add `--set` and `--store`. `sets` is the object of "change" in the help of `--set`."""
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
    """Add `--place`, `--dry-run` and `--prefect`. `dry_run` is the object of "show" in the help of `--dry-run`."""
    command.add_argument(
        "--place", metavar="PLACE", help="short for --set compute.place=PLACE: process, inline or pool"
    )
    command.add_argument("--dry-run", action="store_true", help=f"show {dry_run}; start nothing")
    command.add_argument(
        "--prefect",
        action="store_true",
        help="run through Prefect, with a temporary server if PREFECT_API_URL is not set (default: only if it is set)",
    )


def overrides_of(options: Namespace) -> list[str]:
    """Return the overrides of `--set`, then those of the shorthand options."""
    short = {setting: getattr(options, name, None) for name, setting in SHORT.items()}
    return [*options.overrides, *files.format_overrides(short)]


def settings_of(options: Namespace) -> Settings:
    """Return the settings of a command's CONFIG and options."""
    return files.load(shipped.path_of(options.config, "settings", "CONFIG"), overrides_of(options))


def store_of(options: Namespace) -> "Store":
    """Open the store of a command that creates none. Raises InputError when it does not exist or cannot be read."""
    from montessori.artifacts import Folder, open_store

    store = open_store(options.store)
    store.check_readable()
    if isinstance(store, Folder) and not store.root.exists():
        raise InputError(f"--store = {options.store}: no such folder; give the one that a run has written to")
    return store
