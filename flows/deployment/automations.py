"""Register the automations of the Prefect server: detect dead runs, restart crashed runs, and notify of failures.

The names of all these automations begin with `montessori:`.
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
# An event has the name of its state, and a failed task's state has the name of its error (flows/stage.py).
FAILURES = {f"prefect.flow-run.{name}" for name in ("Failed", *(kind.__name__ for kind in ERRORS))}
ENDS = {*FAILURES, CRASHED, "prefect.flow-run.Completed", "prefect.flow-run.Cancelled"}
# Nothing runs in these states, so there is no heartbeat.
RESTS = {f"prefect.flow-run.{name}" for name in ("Suspended", "Paused", "Scheduled", "AwaitingRetry", "Pending")}
MISSED = timedelta(seconds=75)
# A worker reports a crash twice, seconds apart, and a server on SQLite may evaluate an event several times. A run that
# restarts at the first report would be taken for crashed by the second.
SETTLED = timedelta(seconds=15)
NOT_STARTED = timedelta(minutes=30)  # pulling an image may take that long
NO_REFRESH = timedelta(hours=26)
Block = tuple[str, UUID]  # the slug of its type, and its id


def register(
    client: SyncPrefectClient, *, runs: list[UUID], tasks: UUID, nightly: UUID | None, block: Block | None
) -> Iterator[str]:
    """Create, update and delete automations until the server has exactly these, and yield their names.

    `runs` are the deployments of runs, `tasks` is the deployment of tasks, and `nightly` that of a scheduled refresh.
    """
    missing = {automation.name: automation for automation in _automations(runs, tasks, nightly, block)}
    for present in client.read_automations(limit=200):
        if not present.name.startswith(OURS):
            continue
        if (same := missing.pop(present.name, None)) is None:
            client.delete_automation(present.id)
            continue
        if _comparable(present) != _comparable(same):
            client.update_automation(present.id, same)
        yield present.name
    for automation in missing.values():
        client.create_automation(automation)
        yield automation.name


def find_block(client: SyncPrefectClient, name: str) -> Block:
    """Return the notification or webhook block `type/name`. Raises InputError when there is none."""
    slug, slash, block_name = name.partition("/")
    try:
        if not slash:
            raise ObjectNotFound(ValueError(name))
        return slug, client.read_block_document_by_name(block_name, slug).id
    except ObjectNotFound:
        raise InputError(
            f"--notify {name}: the server has no such block; make one in its UI and give its type and name, "
            "for example slack-webhook/team"
        ) from None


def notified_block(client: SyncPrefectClient) -> str | None:
    """Return the block `type/name` that the present automations notify, or None."""
    for automation in client.read_automations(limit=200):
        for action in automation.actions if automation.name.startswith(OURS) else ():
            if isinstance(action, SendNotification | CallWebhook):
                document = client.read_block_document(action.block_document_id)
                return f"{document.block_type.slug}/{document.name}" if document.block_type else None
    return None


def _automations(runs: list[UUID], tasks: UUID, nightly: UUID | None, block: Block | None) -> Iterator[AutomationCore]:
    watched = [*runs, tasks]
    crash = ChangeFlowRunState(
        state=StateType.CRASHED, name="Crashed", message="No heartbeat: whatever ran it is gone."
    )
    yield AutomationCore(
        name=OURS + "a missed heartbeat is a crash",
        description="A run without a worker or machine sends nothing more, and would be Running for ever.",
        trigger=_trigger(watched, MISSED, after={HEARTBEAT}, expect={HEARTBEAT, *ENDS, *RESTS}),
        actions=[crash],
    )
    lost = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="Never began: its worker is gone.")
    yield AutomationCore(
        name=OURS + "a run that never begins is a crash",
        description="A worker that dies after it took a run leaves it Pending, in its slot of the queue.",
        trigger=_trigger(
            watched, NOT_STARTED, after={"prefect.flow-run.Pending"}, expect={"prefect.flow-run.Running", *ENDS}
        ),
        actions=[lost],
    )
    yield AutomationCore(
        name=OURS + "a crashed run goes on",
        description="Its artifacts are in the store. After a few crashes the flow fails by itself.",
        trigger=_trigger(runs, SETTLED, after={CRASHED}, expect={"prefect.flow-run.Running", *ENDS, *RESTS}),
        actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="Crashed; starts again.")],
    )
    if not block:
        return
    yield AutomationCore(
        name=OURS + "tell of a shard that failed",
        trigger=_trigger([tasks], expect={*FAILURES, CRASHED}),
        actions=[_notification(block, "A task has {{ flow_run.state.name }}: {{ flow_run.name }}")],
    )
    yield AutomationCore(
        name=OURS + "tell of a run that crashed or failed",
        trigger=_trigger(runs, expect={"prefect.flow-run.Failed", CRASHED}),
        actions=[_notification(block, "A run has {{ flow_run.state.name }}: {{ flow_run.name }}")],
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
            actions=[_notification(block, "No teacher-refresh was completed in 26 hours", of_a_run=False)],
        )


def _trigger(
    deployments: list[UUID], within: timedelta = timedelta(0), *, expect: set[str], after: set[str] | None = None
) -> EventTrigger:
    """Trigger on an event of `deployments`, or with `after` on its absence `within` a time after another event."""
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


def _notification(block: Block, subject: str, of_a_run: bool = True) -> SendNotification | CallWebhook:
    slug, block_id = block
    body = f"{subject}\n{{{{ flow_run.state.message }}}}\n{{{{ flow_run|ui_url }}}}" if of_a_run else subject
    if slug == "webhook":
        return CallWebhook(block_document_id=block_id, payload=body)
    return SendNotification(block_document_id=block_id, subject=subject, body=body)


def _comparable(automation: AutomationCore) -> Any:
    """Return the parts of an automation that matter in a comparison."""
    tree = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    tree["trigger"].pop("id", None)
    for name in ("after", "expect", "for_each"):
        tree["trigger"][name] = sorted(tree["trigger"][name])
    return tree
