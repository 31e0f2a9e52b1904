"""A name that holds markup is shown on every page and taken for markup on none."""

from dataclasses import replace
from importlib.resources import files

import pytest
from markupsafe import escape
from scorecard_card import score
from study_example import hostile, result
from study_with_figures import made_up

from montessori.artifacts.catalogue import Entry
from montessori.evaluation.card import Card, Column, Duel, Example
from montessori.reporting import index
from montessori.reporting.run import page as run_page
from montessori.reporting.run.data import Report, Run, ScoredPoint
from montessori.reporting.scorecard import page as scorecard_page
from montessori.reporting.scorecard.tables import everything, marked
from montessori.reporting.study import figures
from montessori.reporting.study import page as study_page
from montessori.reporting.study import tables as study_tables
from montessori.reporting.study.data import Study
from montessori.settings.study import SYSTEMS

NAMES = ("<script>", "a & b")


def of_a_run(name: str, report: Report) -> str:
    systems = [replace(system, name=f"{name}{place}") for place, system in enumerate(report.systems)]
    points = [ScoredPoint(name, name, 1e-5, 1, name)]
    run = Run(name, name, name, name, {name: name})
    return run_page.page(replace(report, run=run, systems=systems, highest=points, rejections={name: 1}), [])


def of_a_scorecard(name: str, _: Report) -> str:
    column = Column(name, "a", name, protocol=name)
    items = {"1": 1.0, "2": 0.0}
    scores = {(name, "a"): score(items, lambda _: name), ("other", "a"): score(items)}
    card = Card(
        name, name, [name, "other"], [column], scores, "other",
        [Duel(name, "other", 1, 0, 0)], [Example("a", name, name, name, "other", name, 0.5, name)], warnings=[name],
    )  # fmt: skip
    leaders = marked(card)
    return scorecard_page.page(card, everything(card, leaders, {}), leaders, [])


def of_a_study(name: str, _: Report) -> str:
    metric = Column(name, "reference_loss", name, True)
    results = [result(row, SYSTEMS, name, seed, 0) for row in (name, "other") for seed in (0, 1)]
    study = Study(name, name, name, name, [metric], "other", results, [0, 1], [name], hyperparameters={name: name})
    return study_page.page(study, study_tables.everything(study), [name], [])


def of_a_list(name: str, _: Report) -> str:
    made_by = {"time": "2026-11-30T10:00:00Z", "user": name, "host": name}
    manifest = {"files": {"report.html": {"bytes": 1}, "result.md": {"bytes": 1}}, "made_by": made_by}
    return index.page([Entry(f"runs/{name}", manifest)], name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("page", [of_a_run, of_a_scorecard, of_a_study, of_a_list])
def test_a_name_that_holds_markup_is_escaped_on_every_page(page, name: str, report: Report) -> None:
    text = page(name, report)
    assert text.count(str(escape(name))) > 2
    assert name not in text


def test_the_templates_are_data_of_the_package() -> None:
    names = {template.name for template in files("montessori.reporting").joinpath("templates").iterdir()}
    assert {"run.html", "scorecard.html", "study.html", "index.html", "style.css"} <= names


def test_a_study_of_hostile_names_is_drawn() -> None:
    drawn = made_up(seeds=2)
    study = replace(hostile(), results=[*hostile().results], transfer=hostile().transfer, duels=drawn.duels)
    assert {"transfer", "cost", "duels"} <= {picture.name for picture in figures.draw(study)}
