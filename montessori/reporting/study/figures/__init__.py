"""The figures of a study, as SVG and PNG: those of the paper that it has data for, and what a score costs.

In: a `Study`.  Out: pictures, byte-identical for the same study. What has no data has no picture.
"""

from functools import partial

from montessori.reporting.figures import Picture, render
from montessori.reporting.study.data import Study
from montessori.reporting.study.figures import signals, systems, texts, training

DRAWERS = (
    training.scores,
    training.influences,
    training.positive_share,
    systems.duels,
    systems.transfer,
    texts.root_verbs,
    texts.token_lengths,
    signals.training_loss,
    signals.fidelity,
    systems.cost,
)


def draw(study: Study) -> list[Picture]:
    """Draw every figure that the study has data for."""
    return render(partial(drawer, study) for drawer in DRAWERS)
