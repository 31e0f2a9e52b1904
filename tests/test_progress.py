"""Progress reports reach their receiver, and nobody else."""

from montessori import progress


def test_reports_reach_the_innermost_receiver_and_stop_with_it():
    outer, inner = [], []
    progress.report(0, 1, "without a receiver")
    with progress.send_to(lambda *report: outer.append(report)):
        with progress.send_to(lambda *report: inner.append(report)):
            progress.report(1, 2, "steps", "half way")
        progress.report(2, 2, "steps")
    progress.report(3, 3, "without a receiver")
    assert inner == [(1, 2, "steps", "half way")]
    assert outer == [(2, 2, "steps", "")]


def test_a_receiver_is_removed_when_the_work_fails():
    heard = []
    try:
        with progress.send_to(lambda *report: heard.append(report)):
            raise ZeroDivisionError
    except ZeroDivisionError:
        progress.report(1, 1, "steps")
    assert heard == []
