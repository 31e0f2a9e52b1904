"""Progress reports reach who listens, and nobody else."""

from montessori import progress


def test_reports_reach_the_innermost_listener_and_stop_with_it():
    outer, inner = [], []
    progress.report(0, 1, "nobody listens")
    with progress.send_to(lambda *report: outer.append(report)):
        with progress.send_to(lambda *report: inner.append(report)):
            progress.report(1, 2, "steps", "half way")
        progress.report(2, 2, "steps")
    progress.report(3, 3, "nobody listens")
    assert inner == [(1, 2, "steps", "half way")]
    assert outer == [(2, 2, "steps", "")]


def test_a_listener_leaves_when_the_work_fails():
    heard = []
    try:
        with progress.send_to(lambda *report: heard.append(report)):
            raise ZeroDivisionError
    except ZeroDivisionError:
        progress.report(1, 1, "steps")
    assert heard == []


def test_items_and_batches_pass_unchanged_and_are_counted_when_they_are_finished():
    heard = []
    with progress.send_to(lambda *report: heard.append(report[:3])):
        assert list(progress.track("ab", 2, "letters")) == ["a", "b"]
        assert list(progress.track([[1, 2], [3]], 3, "points", size=len)) == [[1, 2], [3]]
    assert heard == [
        *[(n, 2, "letters") for n in (0, 1, 2)],
        *[(n, 3, "points") for n in (0, 2, 3)],
    ]
