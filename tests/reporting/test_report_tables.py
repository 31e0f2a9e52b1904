import subprocess
import sys
from dataclasses import replace

from montessori.evaluation.card import Measure
from montessori.reporting.run.data import Report
from montessori.reporting.run.tables import findings, leader, summary_table, to_markdown

NAN = float("nan")


def test_the_best_is_marked_only_beyond_twice_the_combined_standard_error() -> None:
    a, b = Measure(1.0, 0.03, 9), Measure(1.5, 0.04, 9)  # combined: 0.05
    assert leader([b, a], lower_is_better=True) == 1
    assert leader([b, a], lower_is_better=False) == 0
    assert leader([replace(a, mean=1.41), b], lower_is_better=True) is None
    assert leader([replace(a, mean=1.39), b], lower_is_better=True) == 0


def test_what_cannot_be_told_is_not_marked() -> None:
    a, b = Measure(1.0, 0.1, 9), Measure(9.0, NAN, 1)
    assert leader([a, b], lower_is_better=True) is None
    assert leader([a], lower_is_better=True) is None
    assert leader([], lower_is_better=True) is None
    exact = Measure(1.0, 0.0, 9)
    assert leader([exact, exact], lower_is_better=True) is None


def test_a_diverged_system_neither_wins_nor_hides_the_winner() -> None:
    diverged, missing = Measure(NAN, NAN, 9), None
    assert leader([diverged, Measure(2.0, 0.1, 9), missing, Measure(1.0, 0.1, 9)], True) == 3


def test_the_table_has_a_row_a_system_and_says_what_its_numbers_are(report: Report) -> None:
    table = summary_table(report)
    assert [row[0].text for row in table.rows] == [system.name for system in report.systems]
    assert all(len(row) == len(table.header) for row in table.rows)
    assert [cell.text for cell in table.rows[3]][1:] == [
        "2.300 ± 0.031", "2.380 ± 0.028", "45.0 ± 2.1", "400",
    ]  # fmt: skip
    assert [cell.mark for cell in table.rows[3]] == [None, "best", "best", None, None]
    assert "Accuracy\u00a0↑ (%, exact match)" in [head.title for head in table.header]
    assert "one standard error" in table.caption and "reference loss n = 256" in table.caption


def test_metrics_that_were_not_measured_have_no_column(minimal: Report) -> None:
    table = summary_table(minimal)
    titles = [head.title for head in table.header]
    assert titles == ["System", "Reference loss\u00a0↓ (nats/token)", "Training points"]
    assert [cell.text for cell in table.rows[0]] == ["No fine-tuning", "2.000", "0"]


def test_findings_claim_no_lead_within_the_errors(report: Report) -> None:
    loss, _, accuracy, seed = findings(report)
    assert loss.startswith("Lowest reference loss: Montessori iteration 2") and "within" not in loss
    assert "within" not in accuracy
    close = [replace(s, accuracy=Measure(0.4 + 0.01 * i, 0.02, 600)) for i, s in enumerate(report.systems)]
    assert "within twice the combined standard error" in findings(replace(report, systems=close))[2]
    assert seed.startswith("One seed")
    assert "(Self-Instruct)" in loss  # the best baseline, not the iteration before


def test_markdown_has_the_table_with_best_values_bold_and_markup_disarmed(report: Report) -> None:
    hostile = replace(report, systems=[replace(report.systems[0], name="a|b\n<i>*"), *report.systems[1:]])
    text = to_markdown(hostile)
    assert "| **2.300 ± 0.031** |" in text
    assert "| a\\|b &lt;i&gt;\\* |" in text
    assert "> Iteration 2: 96% of the points" in text


def test_the_table_needs_neither_matplotlib_nor_torch() -> None:
    code = "import sys, montessori.reporting.run.tables\nassert not {'matplotlib', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
