"""The figures of a study, as SVG and PNG: those of the paper that it has data for, and what a score costs.

In: a `Study`.  Out: pictures, byte-identical for the same study. What has no data has no picture.
"""

from functools import partial

from montessori.reporting.figures import Picture, render
from montessori.reporting.study.data import Study
from montessori.reporting.study.figures import compare, cost, lengths, scores, student, sunburst, teacher

DRAWERS = (
    teacher.scores,
    teacher.influences,
    student.positive_share,
    compare.duels,
    compare.transfer,
    sunburst.root_verbs,
    lengths.token_lengths,
    scores.training_loss,
    scores.fidelity,
    cost.cost,
)


def draw(study: Study) -> list[Picture]:
    """Every figure that the study has data for."""
    return render(partial(drawer, study) for drawer in DRAWERS)
