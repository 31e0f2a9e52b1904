"""Decide when a task or a shard is tried again: the policy of both executors."""

from montessori.errors import MontessoriError, StoreUnreachable
from montessori.settings.execution import Compute
from tasks.runtime.places import StageCrash

JITTER = 0.5  # the largest share of a delay that is added at random


def worth_a_retry(error: object) -> bool:
    """Tell whether a second attempt may succeed. Wrong input and a task's own verdict would only repeat themselves."""
    return not isinstance(error, MontessoriError) or isinstance(error, StageCrash | StoreUnreachable)


def delays(compute: Compute) -> list[float]:
    """Return the seconds to wait before each further attempt, doubling each time."""
    return [compute.retry_delay_s * 2**number for number in range(compute.retries)]
