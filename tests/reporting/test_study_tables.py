"""The tables of a study: their numbers against numpy and scipy, marks beyond the noise, what is missing by name."""

import csv
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from study_example import (
    BASELINE,
    HOSTILE,
    LOSS,
    MONTESSORI,
    SEEDS,
    SIGNAL,
    UPDATE,
    WINS,
    hostile,
    realistic,
    result,
    single,
)

from montessori.errors import InputError
from montessori.reporting import latex
from montessori.reporting.study.data import Missing, Study
from montessori.reporting.study.findings import findings
from montessori.reporting.study.rows import NO_RESULT, ablations, missing, standings, systems, transferred
from montessori.reporting.study.tables import csv_files, everything
from montessori.settings.study import SYSTEMS


@pytest.fixture(scope="module")
def study() -> Study:
    return realistic()


@pytest.fixture(scope="module")
def tables(study):
    return {table.name: table for table in everything(study)}


def values(study, row, student, key="reference_loss", group=SYSTEMS):
    found = {r.seed: r.values[key] for r in study.results if (r.row, r.student, r.group) == (row, student, group)}
    return np.array([found[seed] for seed in sorted(found)])


def cells(table, group, row):
    return [cell.text for cell in next(r for r in table.groups[group].rows if r[0].text == row)]


def test_every_table_there_is_data_for_stands_in_order(tables):
    assert list(tables) == [
        "table1", "table2", "transfer", "differences-table1", "differences-table2", "differences-transfer", "table3",
        "hyperparameters", "missing",
    ]  # fmt: skip


def test_table_1_has_a_block_a_student_and_the_published_rows_beside_them(tables):
    table = tables["table1"]
    assert [group.title for group in table.groups[:2]] == ["Student 8B", "Student 1.1B"]
    assert [group.published for group in table.groups] == [False, False, True, True]
    assert [group.title.partition(":")[0] for group in table.groups[2:]] == [
        "Published, 8B students, beside 8B", "Published, 1.1B students, beside 1.1B",
    ]  # fmt: skip
    assert cells(table, 2, MONTESSORI)[:4] == [MONTESSORI, "–", "–", "6.903"]
    assert cells(table, 2, BASELINE)[2] == "50.00"
    assert [cell[3].text for cell in table.groups[3].rows] == ["2.485"]


def test_a_cell_is_the_mean_and_standard_error_over_seeds_in_the_metrics_unit(study, tables):
    own = 100 * values(study, BASELINE, "8B", "alpaca_eval")
    assert cells(tables["table1"], 0, BASELINE)[2] == f"{own.mean():.2f} ± {stats.sem(own):.2f}"


def test_points_seeds_and_costs_stand_beside_the_metrics(tables):
    titles = [head.title for head in tables["table1"].header[4:]]
    assert titles == [
        "Training points", "Seeds", "Teacher tokens", "Scoring", "Training", "Whole compute", "US dollars",
    ]  # fmt: skip
    assert cells(tables["table1"], 0, MONTESSORI)[4:] == [
        "10,000", "5", "240 k", "40 s", "4 min", "8 min", "1.00",
    ]  # fmt: skip


def test_a_missing_seed_is_counted_and_named(tables):
    assert cells(tables["table1"], 1, MONTESSORI)[5] == "4 of 5"
    (row,) = tables["missing"].rows
    assert [cell.text for cell in row] == [MONTESSORI, "1.1B", "3", "the teacher wrote 12 of 10,000 points"]


def test_a_missing_seed_that_nothing_is_known_of_is_named_too(study):
    lacking = replace(study, missing=[])
    assert [(m.row, m.student, m.seed, m.error) for m in missing(lacking)] == [(MONTESSORI, "1.1B", 3, NO_RESULT)]


def test_a_lost_result_is_not_hidden_by_a_failure_of_the_same_name_in_another_group(study):
    lost = replace(study, results=[r for r in study.results if (r.group, r.row, r.seed) != (SIGNAL, "judge", 2)])
    failed = [*study.missing, Missing("judge", "8B", 2, "failed", UPDATE)]
    found = [(m.group, m.row, m.seed, m.error) for m in missing(replace(lost, missing=failed))]
    assert (SIGNAL, "judge", 2, NO_RESULT) in found and (UPDATE, "judge", 2, "failed") in found


def test_two_results_in_one_place_of_a_table_are_an_error_and_not_the_last_of_them(study):
    with pytest.raises(InputError, match="Self-Instruct, Qwen, seed 0: there are two results"):
        transferred(replace(study, transfer=[*study.transfer, result(BASELINE, "transfer", "Qwen", 0, 0)]))


def test_a_price_that_one_seed_lacks_leaves_the_mean_of_the_others_in_table_and_csv(study):
    first, *others = study.results
    lacking = replace(study, results=[replace(first, cost=replace(first.cost, usd=None)), *others])
    assert cells(everything(lacking)[0], 0, first.row)[-1] == "0.50"
    assert next(csv.DictReader(io.StringIO(csv_files(lacking)["table1.csv"])))["usd"] == "0.5"


def test_hyperparameters_say_whose_they_are_and_what_is_changed_of_them(tables):
    table = tables["hyperparameters"]
    titles = ["What all cells begin with", "Changed for system Self-Reward", "Changed for student 1.1B"]
    assert [group.title for group in table.groups] == titles
    assert cells(table, 1, "method") == ["method", "self-reward"]
    assert "as student 8B has it" in table.caption


def test_costs_are_said_to_be_means_over_seeds(tables):
    assert "Costs are means over seeds of what one seed takes" in tables["table1"].caption


def test_a_metric_that_one_seed_lacks_says_how_many_it_has(study):
    first, *others = study.results
    lacking = replace(study, results=[replace(first, values={"alpaca_eval": math.nan}), *others])
    table = everything(lacking)[0]
    assert cells(table, 0, first.row)[1].endswith("(n = 4)") and cells(table, 0, first.row)[5] == "5"


def test_marks_against_the_baseline_are_holms_over_the_rows_of_the_table(study):
    rows = systems(study)
    found = standings(study, rows, LOSS)
    p = {}
    for row in rows:
        if row.name != BASELINE:
            other = {
                seed: r.values["reference_loss"] for seed, r in rows[1 if row.student == "8B" else 4].results.items()
            }
            shared = sorted(row.results)
            p[row] = stats.ttest_rel(
                [row.results[seed].values["reference_loss"] for seed in shared], [other[seed] for seed in shared]
            ).pvalue
    for rank, row in enumerate(sorted(p, key=lambda row: p[row])):
        assert found[row].difference.p_value == pytest.approx(p[row], rel=1e-6)
        assert found[row].corrected >= min(1.0, (len(p) - rank) * p[row]) * (1 - 1e-6)
        assert found[row].verdict == ("better" if row.name == MONTESSORI else "worse")
    assert all(found[row].difference is None for row in rows if row.name == BASELINE)


def test_only_leads_beyond_the_noise_are_bold(tables):
    signal, update = tables["table2"].groups
    assert signal.title == "Signal, student 8B"
    assert [row[1].mark for row in signal.rows] == ["best", None]
    assert [row[1].mark for row in update.rows] == [None, None]  # both are better than the baseline, and alike
    assert all(row[1].text.partition(" ")[0].endswith("*") for row in update.rows)
    assert not re.search(r"[*†]", signal.rows[1][1].text)


def test_rows_that_only_seeds_tell_apart_are_seldom_marked():
    marked = total = 0
    for start in range(0, 2000, 5):
        seeds = list(range(start, start + 5))
        results = [result(f"row {i}", SYSTEMS, "", seed, 0) for i in range(4) for seed in seeds]
        study = Study("s", "s", "", "", [LOSS], "row 0", results, seeds, [""])
        found = standings(study, systems(study), LOSS).values()
        marked += any(one.verdict or one.best for one in found)
        total += 1
    assert marked / total < 0.08  # two families of tests at 0.05


def test_transfer_is_tested_against_the_baselines_data_for_the_same_student(study, tables):
    assert [group.title for group in tables["transfer"].groups] == ["Student Qwen", "Student Gemma"]
    own = {r.name: r for r in transferred(study) if r.student == "Qwen"}
    gaps = [
        own[MONTESSORI].results[seed].values["alpaca_eval"] - own[BASELINE].results[seed].values["alpaca_eval"]
        for seed in SEEDS
    ]
    found = standings(study, transferred(study), WINS)
    one = next(one for row, one in found.items() if (row.name, row.student) == (MONTESSORI, "Qwen"))
    assert one.difference.mean == pytest.approx(np.mean(gaps))


def test_an_ablation_is_tested_against_the_baseline_of_table_1(study, tables):
    gaps = values(study, "judge", "8B", group="Signal") - values(study, BASELINE, "8B")
    found = next(one for row, one in standings(study, ablations(study), LOSS).items() if row.name == "judge")
    assert found.difference.mean == pytest.approx(gaps.mean())
    assert "Self-Instruct stands in table 1." in tables["table2"].caption


def test_differences_have_their_interval_and_both_p_values(study, tables):
    gaps = values(study, MONTESSORI, "8B") - values(study, BASELINE, "8B")
    interval = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    row = cells(tables["differences-table1"], 0, MONTESSORI)
    assert tables["differences-table1"].groups[0].title == "Student 8B: Reference loss\u00a0↓ (nats/token)"
    assert [float(x.replace("−", "-")) for x in (row[1], *row[2].split(" to "))] == pytest.approx(
        [gaps.mean(), interval.low, interval.high], abs=5e-5
    )
    assert row[3] == "< 0.001" and row[5] == "5"


def test_one_seed_says_that_there_is_no_error():
    study = single()
    table = everything(study)[0]
    assert table.caption.startswith("One seed: there is no standard error")
    assert "±" not in "".join(cell.text for row in table.rows for cell in row)
    assert not any(cell.mark for row in table.rows for cell in row)
    assert findings(study)[-1].startswith("One seed: there are no errors and no tests")


def test_findings_are_as_sure_as_their_tests(study):
    told = findings(study)
    assert any("Montessori-Instruct, iteration 1 has the lowest mean reference loss" in one for one in told)
    assert any("p < 0.001 after Holm's correction). It took 1.7 times the computing" in one for one in told)
    assert "Teacher update, student 8B: no row leads all others beyond the noise in reference loss." in told
    assert told[-1].startswith("1 result missing")
    level = replace(study, results=[result(r.row, r.group, r.student, r.seed, 0) for r in study.results])
    assert "which may be the seeds' doing" in findings(level)[0] or "what the others are tested" in findings(level)[0]


def test_the_csv_has_plain_numbers_by_row_and_student(study):
    files = csv_files(study)
    assert set(files) == {"table1.csv", "table2.csv", "transfer.csv", "table3.csv", "hyperparameters.csv"}
    lines = list(csv.DictReader(io.StringIO(files["table1.csv"])))
    assert [(line["system"], line["student"]) for line in lines[2:4]] == [
        (MONTESSORI, "8B"),
        ("No fine-tuning", "1.1B"),
    ]
    own = 100 * values(study, MONTESSORI, "8B", "alpaca_eval")
    gaps = own - 100 * values(study, BASELINE, "8B", "alpaca_eval")
    line = lines[2]
    assert float(line["alpaca_eval_mean"]) == pytest.approx(own.mean())
    assert float(line["alpaca_eval_se"]) == pytest.approx(stats.sem(own))
    assert float(line["alpaca_eval_p"]) == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue, rel=1e-6)
    assert (line["alpaca_eval_n"], float(line["whole_s"]), float(line["usd"])) == ("5", 490, 1.0)
    assert lines[1]["alpaca_eval_p"] == ""  # the baseline itself
    assert len(list(csv.reader(io.StringIO(files["table3.csv"])))) == 1 + 4
    settings = list(csv.reader(io.StringIO(files["hyperparameters.csv"])))
    assert settings[0] == ["changed_for", "setting", "value"]
    assert ["system Self-Reward", "method", "self-reward"] in settings


@pytest.mark.parametrize("made", [realistic, hostile])
def test_latex_shows_whatever_texts_hold(made):
    text = latex.document(everything(made()))
    assert text.isascii() and HOSTILE not in text
    bare = re.sub(r"\\[{}%$&#_\\]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    for align, body in re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", text, re.S):
        for row in (line for line in body.splitlines() if line.endswith(r"\\")):
            assert len(re.findall(r"(?<!\\)&", row)) + 1 == len(align) or rf"\multicolumn{{{len(align)}}}" in row


def test_latex_has_the_marks(study):
    text = latex.document(everything(study))
    assert r"\textbf{2.292*}" in text and r"\dag{}" in text and "[U+" not in text
