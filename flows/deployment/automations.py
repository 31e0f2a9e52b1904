"""What the Prefect server does by itself: tell a dead run from a slow one, start crashed runs again, notify.

In: the deployments to watch.  Out: automations on the server, known by their names, which all begin with `montessori:`.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import (
    AutomationCore,
    CallWebhook,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    ResourceSpecification,
    SendNotification,
)
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from montessori.errors import ArtifactError, BudgetReached, InputError, StageError, StoreUnreachable

OURS = "montessori: "
HEARTBEAT = "prefect.flow-run.heartbeat"  # every 30 s, by the job templates
CRASHED = "prefect.flow-run.Crashed"
ERRORS = (InputError, StageError, BudgetReached, StoreUnreachable, ArtifactError)
# An event has the name of its state, and a stage that fails ends under the name of its error (flows/stage.py).
FAILURES = {f"prefect.flow-run.{name}" for name in ("Failed", *(kind.__name__ for kind in ERRORS))}
ENDS = {*FAILURES, CRASHED, "prefect.flow-run.Completed", "prefect.flow-run.Cancelled"}
# In these nobody is at work on it, and nothing is to be heard.
RESTS = {f"prefect.flow-run.{name}" for name in ("Suspended", "Paused", "Scheduled", "AwaitingRetry", "Pending")}
MISSED = timedelta(seconds=75)
# A worker tells of one crash twice, seconds apart, and a server on SQLite may evaluate one event several times: a run
# that was started again at the first of these would be taken for crashed by the second.
SETTLED = timedelta(seconds=15)
NOT_STARTED = timedelta(minutes=30)  # pulling an image may take that long
NO_REFRESH = timedelta(hours=26)
Block = tuple[str, UUID]  # slug of its type, id


def register(
    client: SyncPrefectClient, runs: list[UUID], stages: UUID, nightly: UUID | None, block: Block | None
) -> Iterator[str]:
    """Make exactly the automations that are wanted; their names."""
    wanted = {automation.name: automation for automation in _wanted(runs, stages, nightly, block)}
    for found in client.read_automations(limit=200):
        if not found.name.startswith(OURS):
            continue
        if (same := wanted.pop(found.name, None)) is None:
            client.delete_automation(found.id)
            continue
        if _plain(found) != _plain(same):
            client.update_automation(found.id, same)
        yield found.name
    for automation in wanted.values():
        client.create_automation(automation)
        yield automation.name


def block(client: SyncPrefectClient, name: str) -> Block:
    """The notification or webhook block `type/name`. Raises InputError when there is none."""
    slug, slash, of_it = name.partition("/")
    try:
        if not slash:
            raise ObjectNotFound(ValueError(name))
        return slug, client.read_block_document_by_name(of_it, slug).id
    except ObjectNotFound:
        raise InputError(
            f"--notify {name}: the server has no such block; make one in its UI and give its type and name, "
            "for example slack-webhook/team"
        ) from None


def told(client: SyncPrefectClient) -> str | None:
    """The block, `type/name`, that is told of failures now."""
    for found in client.read_automations(limit=200):
        for action in found.actions if found.name.startswith(OURS) else ():
            if isinstance(action, SendNotification | CallWebhook):
                document = client.read_block_document(action.block_document_id)
                return f"{document.block_type.slug}/{document.name}" if document.block_type else None
    return None


def _wanted(runs: list[UUID], stages: UUID, nightly: UUID | None, block: Block | None) -> Iterator[AutomationCore]:
    watched = [*runs, stages]
    crash = ChangeFlowRunState(
        state=StateType.CRASHED, name="Crashed", message="No heartbeat: whatever ran it is gone."
    )
    yield AutomationCore(
        name=OURS + "a missed heartbeat is a crash",
        description="A run whose worker and machine are gone says nothing more, and would be Running for ever.",
        trigger=_trigger(watched, MISSED, after={HEARTBEAT}, expect={HEARTBEAT, *ENDS, *RESTS}),
        actions=[crash],
    )
    lost = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="Never began: its worker is gone.")
    yield AutomationCore(
        name=OURS + "a run that never begins is a crash",
        description="A worker that takes a run and dies leaves it Pending, and holding its place in the queue.",
        trigger=_trigger(
            watched, NOT_STARTED, after={"prefect.flow-run.Pending"}, expect={"prefect.flow-run.Running", *ENDS}
        ),
        actions=[lost],
    )
    yield AutomationCore(
        name=OURS + "a crashed run goes on",
        description="What it has made is in the store. After a few crashes the flow fails of itself.",
        trigger=_trigger(runs, SETTLED, after={CRASHED}, expect={"prefect.flow-run.Running", *ENDS, *RESTS}),
        actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="Crashed; starts again.")],
    )
    if not block:
        return
    yield AutomationCore(
        name=OURS + "tell of a shard that failed",
        trigger=_trigger([stages], expect={*FAILURES, CRASHED}),
        actions=[_tell(block, "A stage has {{ flow_run.state.name }}: {{ flow_run.name }}")],
    )
    yield AutomationCore(
        name=OURS + "tell of a run that crashed or failed",
        trigger=_trigger(runs, expect={"prefect.flow-run.Failed", CRASHED}),
        actions=[_tell(block, "A run has {{ flow_run.state.name }}: {{ flow_run.name }}")],
    )
    if nightly:
        yield AutomationCore(
            name=OURS + "tell of a refresh that did not happen",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                match_related=_of([nightly]),
                expect={"prefect.flow-run.Completed"},
                threshold=1,
                within=NO_REFRESH,
            ),
            actions=[_tell(block, "No teacher-refresh was completed in 26 hours", of_a_run=False)],
        )


def _trigger(
    deployments: list[UUID], within: timedelta = timedelta(0), *, expect: set[str], after: set[str] | None = None
) -> EventTrigger:
    """An event of a run of `deployments`; with `after`: that it does not come within a time after another."""
    return EventTrigger(
        posture=Posture.Proactive if after else Posture.Reactive,
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=_of(deployments),
        for_each={"prefect.resource.id"},
        after=after or set(),
        expect=expect,
        threshold=1,
        within=within,
    )


def _of(deployments: list[UUID]) -> ResourceSpecification:
    ids = [f"prefect.deployment.{deployment}" for deployment in deployments]
    return ResourceSpecification({"prefect.resource.role": "deployment", "prefect.resource.id": ids})


def _tell(block: Block, subject: str, of_a_run: bool = True) -> SendNotification | CallWebhook:
    slug, block_id = block
    body = f"{subject}\n{{{{ flow_run.state.message }}}}\n{{{{ flow_run|ui_url }}}}" if of_a_run else subject
    if slug == "webhook":
        return CallWebhook(block_document_id=block_id, payload=body)
    return SendNotification(block_document_id=block_id, subject=subject, body=body)


def _plain(automation: AutomationCore) -> Any:
    """What matters of an automation, to compare two."""
    tree = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    tree["trigger"].pop("id", None)
    for name in ("after", "expect", "for_each"):
        tree["trigger"][name] = sorted(tree["trigger"][name])
    return tree
