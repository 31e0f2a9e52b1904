import itertools
import math
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, median, stdev
from xml.etree import ElementTree

import matplotlib.style
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from scipy import stats
from study_with_figures import ACCURACY, BASELINE, LOSS, ROWS, made_up

from montessori.evaluation.card import Duel
from montessori.reporting.figures import Picture
from montessori.reporting.figures.canvas import GRID, INK, MUTED, PAPER, RC, SERIES, SHADE, Drawing
from montessori.reporting.study.data import Study, TeacherStep
from montessori.reporting.study.figures import DRAWERS, draw

pytestmark = pytest.mark.xdist_group("study figures")  # or each worker draws them anew
ALL = [
    "teacher-steps", "teacher-influence", "student-positive", "duels", "transfer", "root-verbs", "token-lengths",
    "signals", "fidelity", "cost",
]  # fmt: skip
LONG = [f"Montessori-Instruct with {'a very long name ' * 3}and seed set {i}" for i in range(11)]
NAN = math.nan


def by_name(study: Study) -> dict[str, Picture]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {picture.name: picture for picture in draw(study)}


@pytest.fixture(scope="module")
def study() -> Study:
    return made_up()


@pytest.fixture(scope="module")
def pictures(study: Study) -> dict[str, Picture]:
    return by_name(study)


def without_spread(study: Study) -> Study:
    """Everything that is measured has one and the same value."""
    return replace(
        study,
        results=[replace(r, values=dict.fromkeys(r.values, 0.5), cost=study.results[-1].cost) for r in study.results],
        teacher_steps=[
            replace(s, values=dict.fromkeys(s.values, 0.5), influences=[1e-5] * 9) for s in study.teacher_steps
        ],
        student_steps=[replace(s, positive=1.0) for s in study.student_steps],
        duels=[Duel(row, BASELINE, 5, 0, 5) for row in ROWS],
        transfer=[replace(r, values=dict.fromkeys(r.values, 0.5)) for r in study.transfer],
        scored=[
            replace(s, training_loss=[1.0] * 9, influences={"exact": [1e-5] * 9, "taylor": [1e-5] * 9})
            for s in study.scored
        ],
        texts=[replace(t, instructions=["Write a poem."], instruction_tokens=[7] * 9, response_tokens=[0] * 9)
               for t in study.texts],
    )  # fmt: skip


def broken(study: Study) -> Study:
    """Half of everything has failed."""
    return replace(
        study,
        results=[replace(r, values={LOSS.key: NAN}) if i % 2 else r for i, r in enumerate(study.results)],
        teacher_steps=[
            replace(s, values={LOSS.key: NAN}, influences=[NAN, *s.influences]) if i % 2 else s
            for i, s in enumerate(study.teacher_steps)
        ],
        student_steps=[replace(s, positive=NAN) if i % 2 else s for i, s in enumerate(study.student_steps)],
        duels=[*study.duels[1:], Duel("nobody", BASELINE, 0, 0, 0), Duel("winner", BASELINE, 9, 0, 0)],
        transfer=[replace(r, values={LOSS.key: NAN}) if r.student == "wide" else r for r in study.transfer],
        scored=[replace(study.scored[0], training_loss=[NAN] * 120), *study.scored[1:]],
        texts=[replace(study.texts[0], instructions=["?", ""], response_tokens=[]), *study.texts[1:]],
    )


def one_point(study: Study) -> Study:
    """One seed, of which one point is left everywhere."""
    alone = made_up(ROWS[1:2], seeds=1)
    return replace(
        alone,
        teacher_steps=[replace(alone.teacher_steps[0], influences=[1e-5])],
        student_steps=made_up(ROWS[:2], seeds=1).student_steps[:1],
        duels=study.duels[:1],
        scored=[
            replace(s, training_loss=s.training_loss[:1], influences={k: v[:1] for k, v in s.influences.items()})
            for s in alone.scored
        ],
        texts=[replace(study.texts[0], instructions=["Go."], instruction_tokens=[1], response_tokens=[3])],
    )


STUDIES: dict[str, Callable[[Study], Study]] = {
    "as it is": lambda study: study,
    "one seed": lambda study: made_up(seeds=1),
    "two seeds": lambda study: made_up(seeds=2),
    "one point": one_point,
    "without spread": without_spread,
    "half of it failed": broken,
    "twelve long names": lambda study: made_up([BASELINE, *LONG], seeds=3),
    "free of cost": lambda study: replace(
        study, results=[replace(r, cost=study.results[0].cost) for r in study.results]
    ),
    "one metric": lambda study: replace(study, metrics=[ACCURACY]),
    "two students": lambda study: replace(
        study,
        results=[replace(r, student=student) for r in study.results for student in ("small", "wide")],
    ),
    "days of computing": lambda study: replace(
        study,
        results=[replace(r, cost=replace(r.cost, training_s=10.0 ** (i % 7))) for i, r in enumerate(study.results)],
    ),
}  # fmt: skip


def test_every_figure_is_drawn_as_svg_and_png_and_says_what_it_shows(pictures: dict[str, Picture]) -> None:
    assert list(pictures) == ALL
    for picture in pictures.values():
        assert picture.title and picture.alt.endswith(".") and picture.caption.endswith((".", "side.", "baseline."))
        width, height = struct.unpack(">II", picture.png[16:24])
        assert picture.png.startswith(b"\x89PNG") and width > 800 and height > 400
        assert ElementTree.fromstring(picture.svg) is not None


def test_the_same_study_gives_the_same_bytes(pictures: dict[str, Picture]) -> None:
    assert by_name(made_up()) == pictures


def test_every_colour_is_one_that_the_page_knows(pictures: dict[str, Picture]) -> None:
    known = {INK, MUTED, GRID, PAPER, SHADE, *SERIES}
    for picture in pictures.values():
        found = set(re.findall(r"#[0-9a-f]{6}\b", picture.svg))
        assert found <= known, picture.name


def test_drawing_never_imports_pyplot_or_torch() -> None:
    code = (
        "import sys\nfrom montessori.reporting.study.figures import draw\n"
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", STUDIES)
def test_texts_neither_overlap_nor_leave_the_figure_nor_hold_a_nan(name: str, study: Study) -> None:
    changed = STUDIES[name](study)
    with matplotlib.style.context(["default", RC]), warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawer in DRAWERS:
            if drawing := drawer(changed):
                check_texts(drawing)


def check_texts(drawing: Drawing) -> None:
    figure = drawing.figure
    figure.set_dpi(200)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    # The rings of a sunburst are turned text, whose boxes overlap where the letters do not.
    texts = [
        t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t.get_rotation() in (0, 90)
    ]
    hidden = beyond(drawing)
    shown = [(t.get_text(), Text.get_window_extent(t, renderer)) for t in texts if t not in hidden]
    for text in [drawing.alt, drawing.caption, *(text for text, _ in shown)]:
        assert not re.search(r"\b(nan|inf|None)\b", text), text
    for text, box in shown:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, (
            drawing.name,
            text,
        )
    for (a, box), (b, other) in itertools.combinations(shown, 2):
        across = min(box.x1, other.x1) - max(box.x0, other.x0)
        down = min(box.y1, other.y1) - max(box.y0, other.y0)
        assert across <= 1 or down <= 3, f"{drawing.name}: {a!r} over {b!r}"


def beyond(drawing: Drawing) -> list[Text]:
    """Labels of ticks outside their axis: matplotlib keeps them and does not draw them."""
    axes = [axis for ax in drawing.figure.axes for axis in (ax.xaxis, ax.yaxis)]
    ticks = [(tick, sorted(axis.get_view_interval())) for axis in axes for tick in axis.get_major_ticks()]
    return [tick.label1 for tick, (low, high) in ticks if not low <= tick.get_loc() <= high]


def test_without_data_nothing_is_drawn(study: Study) -> None:
    empty = Study("bare", "s1", "", "", study.metrics, BASELINE, [], [], [])
    assert draw(empty) == [] and draw(replace(empty, metrics=[])) == []


def test_scores_are_means_over_seeds_at_equal_shares_of_the_update(study: Study, pictures: dict[str, Picture]) -> None:
    last = [s for s in study.teacher_steps if s.share == 1.0]
    values = [s.values[LOSS.key] for s in last]
    error = stdev(values) / math.sqrt(len(values))
    steps = fmean(s.step for s in last)
    assert f"{fmean(values):.3f} ± {error:.3f} at {steps:.0f}" in pictures["teacher-steps"].alt
    assert "n = 5" in pictures["teacher-steps"].caption


def test_influence_is_shown_before_during_and_after_with_medians_of_all_seeds(study: Study) -> None:
    many = [
        TeacherStep(seed, n, n / 20, {}, [1e-5 * n + 1e-6 * seed, NAN]) for n in range(21) for seed in (1, 2, 3)
    ]  # fmt: skip
    (picture,) = draw(Study("s", "s", "", "", study.metrics, BASELINE, [], [], [], teacher_steps=many))
    assert picture.alt.count("During") == 3 and "After the update (20 steps, 100%): median 2.0×10⁻⁴" in picture.alt
    assert f"Before the update: median {median([1e-6, 2e-6, 3e-6]):.1e}".replace("e-06", "×10⁻⁶") in picture.alt
    assert "15 points without a finite influence excluded" in picture.caption


def test_a_single_seed_has_no_bars_of_error() -> None:
    pictures = by_name(made_up(seeds=1))
    for name in ("teacher-steps", "student-positive", "transfer", "cost"):
        assert "One seed: no bars of error." in pictures[name].caption
        assert "±" not in pictures[name].alt


def test_share_of_positive_points_by_row(study: Study, pictures: dict[str, Picture]) -> None:
    values = [100 * s.positive for s in study.student_steps if s.row == ROWS[-1] and s.share == 1.0]
    text = pictures["student-positive"].alt.partition(f"{ROWS[-1]}: ")[2]
    assert f"{fmean(values):.1f} ± {stdev(values) / math.sqrt(5):.1f} at 100" in text


def test_of_many_duels_those_of_the_baseline_and_of_the_row_that_wins_most_are_drawn(study: Study) -> None:
    rows = [BASELINE, *(f"row {number}" for number in range(6))]
    fought = [
        Duel(left, right, 6 if left == "row 3" else 2, 5, 2) for left, right in itertools.combinations(rows[::-1], 2)
    ]
    duels = by_name(replace(study, duels=fought))["duels"]
    shown = [text for text in duels.alt.split("; ") if " against " in text]
    assert len(shown) == 6 + 5
    assert all(BASELINE in text or "row 3" in text for text in shown)
    assert duels.caption and f"Not shown: {21 - 11} pairs" in duels.caption


def test_duels_and_transfer_tell_their_numbers(study: Study, pictures: dict[str, Picture]) -> None:
    duel = study.duels[-1]
    told = f"{duel.left} against {duel.right}: {duel.wins} wins, {duel.ties} ties, {duel.losses} losses"
    assert told in pictures["duels"].alt
    values = [r.values[LOSS.key] for r in study.transfer if (r.row, r.student) == (ROWS[-1], "deep")]
    part = pictures["transfer"].alt.partition("deep: ")[2].partition(";")[0]
    assert f"{ROWS[-1]} {fmean(values):.3f} ± {stdev(values) / math.sqrt(5):.3f}" in part


def test_root_verbs_are_counted_for_the_baseline_and_the_last_system(study: Study) -> None:
    asked = ["Write a poem."] * 5 + ["Write a song."] * 3 + ["Name a colour."] * 2
    texts = [replace(t, instructions=asked if t.row == ROWS[-1] else ["Go home."]) for t in study.texts]
    picture = by_name(replace(study, texts=texts))["root-verbs"]
    assert (
        "2 verbs in 100% of 10 instructions, 10 with a verb: write 8 (poem 5, song 3), name 2 (colour 2)" in picture.alt
    )
    assert BASELINE in picture.alt and ROWS[2] not in picture.alt


def test_lengths_show_the_baseline_and_the_last_three(study: Study, pictures: dict[str, Picture]) -> None:
    picture = pictures["token-lengths"]
    assert all(row in picture.alt for row in [BASELINE, *ROWS[-3:]]) and ROWS[2] not in picture.alt
    last = next(t for t in study.texts if t.row == ROWS[-1])
    assert f"Responses, {ROWS[-1]}: median {median(last.response_tokens):.0f} of 400 texts" in picture.alt
    assert "Not shown: 1 row." in picture.caption


def test_rank_correlations_of_every_seed(study: Study, pictures: dict[str, Picture]) -> None:
    for scored in study.scored:
        rho = stats.spearmanr(scored.training_loss, scored.influences["taylor"]).statistic
        assert f"{rho:.2f} (seed {scored.seed})" in pictures["signals"].caption
    each = [
        stats.spearmanr(s.influences["exact"][:-1], s.influences["directional"][:-1]).statistic for s in study.scored
    ]  # fmt: skip
    assert f"directional: ρ = {fmean(each):.4f}"[:-2] in pictures["fidelity"].caption
    assert "over 5 seeds" in pictures["fidelity"].alt


def test_cost_is_the_sum_of_all_parts(study: Study, pictures: dict[str, Picture]) -> None:
    assert f"{ROWS[0]} " in pictures["cost"].alt and "for 0.0 s" in pictures["cost"].alt
    last = next(r for r in study.results if r.row == ROWS[1])
    assert last.cost.writing_s + last.cost.tuning_s + last.cost.training_s == 82.0
    assert "for 82 s" in pictures["cost"].alt
