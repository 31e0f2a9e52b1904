import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from montessori.reporting.figures import Picture, draw_scores
from montessori.reporting.run.data import Iteration, Report, Stage
from montessori.reporting.run.figures import draw

pytestmark = pytest.mark.xdist_group("report figures")  # or each worker draws them anew
ALL = ["results", "influence", "positive-share", "families", "token-lengths", "training", "time", "lineage"]


def words(picture: Picture) -> str:
    """The text in the SVG, as one would search for it."""
    return " ".join(ElementTree.fromstring(picture.svg).itertext())


def only(report: Report, iterations: Sequence[Iteration] = (), stages: Sequence[Stage] = ()) -> Report:
    """`report` with nothing else to draw."""
    return Report(report.run, [], iterations=list(iterations), stages=list(stages))


def test_every_figure_is_drawn_as_svg_and_png(pictures: dict[str, Picture]) -> None:
    assert list(pictures) == ALL
    for picture in pictures.values():
        assert picture.alt and picture.title
        width, height = struct.unpack(">II", picture.png[16:24])
        assert picture.png.startswith(b"\x89PNG") and width > 1500 and height > 100


def test_drawing_leaves_global_settings_alone_and_never_imports_pyplot() -> None:
    code = (
        "import sys, matplotlib; from matplotlib import rcParams\n"
        # Looking the backend up would itself import pyplot.
        "look = lambda: {k: rcParams[k] for k in rcParams if k != 'backend'}; before = look()\n"
        "from montessori.reporting.run.data import *; from montessori.reporting.run.figures import draw\n"
        "draw(Report(Run('r', 'r', ''), [System('a', 0, Measure(1.0, 0.1, 4))]))\n"
        "assert look() == before\n"
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_results_name_every_system_with_its_value(report: Report, pictures: dict[str, Picture]) -> None:
    text = words(pictures["results"])
    assert all(system.name in text for system in report.systems)
    assert "2.300 ± 0.031" in text and "nats/token" in text and "exact match" in text


def test_a_histogram_of_a_few_points_holds_them_all_and_one_far_outlier_is_counted() -> None:
    spread = [n * 1e-5 for n in range(-20, 40)]
    assert "beyond" not in words(draw_scores(spread, 0.0))
    assert "1 beyond the axis" in words(draw_scores([*spread * 10, 1.0], 0.0))


def test_points_without_a_finite_influence_are_excluded_and_counted(pictures: dict[str, Picture]) -> None:
    assert "6 points without a finite influence excluded, before and after together." in pictures["influence"].caption
    assert "601 points" in pictures["influence"].alt


def test_influence_marks_the_momentum_share_of_each_iteration(pictures: dict[str, Picture]) -> None:
    text = words(pictures["influence"])
    assert text.count("I(∅)") == 2
    assert "Iteration 1" in text and "Iteration 2" in text


def test_reference_families_come_first_and_unrecognised_last(pictures: dict[str, Picture]) -> None:
    text = words(pictures["families"])
    covered = max(text.index(name) for name in ("reverse", "uppercase", "count"))
    others = min(text.index(name) for name in ("sort", "add", "compare"))
    assert covered < others < text.index("unrecognised")


def test_many_unlisted_families_are_cut_to_the_most_common(report: Report) -> None:
    words_of_real_data: dict[str | None, float] = {f"verb{i:03}": (200 - i) / 20_100 for i in range(200)}
    iteration = replace(report.iterations[0], families_before=words_of_real_data, families_after=words_of_real_data)
    (picture,) = [p for p in draw(only(report, iterations=[iteration])) if p.name == "families"]
    text = words(picture)
    assert "verb000" in text and "verb011" in text and "verb012" not in text
    assert "all others" in text


def test_a_run_without_dpo_still_shows_the_students_training(report: Report) -> None:
    iteration = replace(report.iterations[0], dpo=[], influences=[], families_before={}, families_after={})
    (picture,) = [p for p in draw(only(report, iterations=[iteration])) if p.name == "training"]
    assert "Student fine-tuning" in words(picture) and "DPO" not in words(picture)


def test_time_counts_an_artifact_once(report: Report) -> None:
    stages = [stage for stage in report.stages if stage.stage in ("seeds", "influence")]
    (picture,) = [p for p in draw(only(report, stages=stages + stages)) if p.name == "time"]
    assert "influence 4 min 8 s in 8 artifacts" in picture.alt
    assert "In all 4 min 8 s" in picture.caption
