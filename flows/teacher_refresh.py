"""The flow `teacher-refresh`: one night's challenger, promoted if its student is better than the champion's."""

import json
from datetime import date
from functools import partial

from prefect import flow
from prefect.runtime import flow_run

from flows.methods import night as nightly
from flows.montessori import THREADS, make
from flows.requests.steps import Address
from montessori.artifacts import Store, open_store
from montessori.errors import MontessoriError
from montessori.evaluation.paired import Test
from montessori.refresh import champions, nights
from montessori.refresh.nights import Night
from montessori.settings.schema import Settings
from tasks.runtime import engines


@flow(name="teacher-refresh", flow_run_name="{settings.name}", task_runner=THREADS, persist_result=False)
def teacher_refresh(settings: Settings, night: date | None = None) -> Address:
    """Tune the champion to a challenger, train a student with the data of each, and keep the better teacher.

    `night` (default: the UTC date that this flow run was scheduled for) makes new data; the same night is replayed.
    Returns the address of the comparison. Whatever fails leaves the champion as it is.
    """
    store = open_store(settings.store)
    store.check_writable()
    when = night or flow_run.scheduled_start_time.date()
    planned, found = nightly.plan(engines.settled(settings), when.isoformat(), store)
    tonight = nights.begin(store, found).model_copy(update={"state": "running", "error": ""})
    nights.tell(store, tonight)
    try:
        refresh = make(store, planned, partial(nightly.order, night=tonight))
        promoted = promote_if_better(store, tonight, refresh)
    except Exception as error:
        nights.tell(store, tonight.model_copy(update={"state": "failed", "error": str(error)}))
        if isinstance(error, MontessoriError):
            raise type(error)(f"the refresh of {when} failed, and changed no champion: {error}") from error
        raise
    state = "promoted" if promoted else "kept"
    nights.tell(store, tonight.model_copy(update={"state": state, "refresh": refresh}))
    return refresh


def promote_if_better(store: Store, night: Night, refresh: Address) -> bool:
    """Enter the challenger into the champions' history if the comparison says so; whether it does."""
    found = json.loads((store.open(refresh) / "summary.json").read_text())
    if found["better"]:
        test = Test.model_validate(found["test"])
        champions.promote_tested(store, night.name, found["challenger"], found["champion"], night.entry, refresh, test)
    return bool(found["better"])
