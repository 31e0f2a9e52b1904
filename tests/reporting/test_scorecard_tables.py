import csv
import html
import io
import json
import re
from dataclasses import replace

import pytest
from scorecard_card import HOSTILE, MODELS, SUBJECTS, hostile, measure, realistic, score

from montessori.evaluation import published
from montessori.evaluation.bootstrap import against_baseline
from montessori.evaluation.card import Card, Column, JudgeAbility, Measure, Score
from montessori.reporting import latex, markdown
from montessori.reporting.scorecard.metrics import metrics, numbers
from montessori.reporting.scorecard.tables import (
    Marks,
    categories,
    comparisons,
    duels,
    everything,
    judge_ability,
    marked,
    ordered,
    overlaps,
    results,
)
from montessori.reporting.tables import Table, number, written


@pytest.fixture(scope="module")
def card() -> Card:
    return realistic()


@pytest.fixture(scope="module")
def leaders(card: Card) -> Marks:
    return marked(card)


@pytest.fixture(scope="module")
def table(card: Card, leaders: Marks) -> Table:
    return results(card, leaders)


def test_columns_stand_in_the_papers_order_then_losses_then_the_rest(table: Table) -> None:
    titles = [head.title.replace("\u00a0", " ") for head in table.header]
    assert titles == [
        "Model", "AlpacaEval LC ↑", "AlpacaEval WR ↑", "MT-Bench ↑", "MMLU ↑", "GPQA ↑", "ARC-C ↑", "GSM8K ↑",
        "HellaSwag ↑", "Reference loss ↓", "Held-out bits ↓",
    ]  # fmt: skip
    assert list(table.header[3].about) == ["1–10", "n = 160"]


def test_a_part_of_a_benchmark_stands_behind_the_whole(card: Card) -> None:
    part = Column("AlpacaEval WR 257+", "alpaca_eval_others", "%")
    keys = [column.key for column in ordered(replace(card, columns=[part, *card.columns]))]
    assert keys[:4] == ["alpaca_eval_lc", "alpaca_eval", "alpaca_eval_others", "mt_bench"]


def test_a_cell_is_the_mean_with_its_standard_error_in_the_columns_unit(card: Card, table: Table) -> None:
    mmlu, loss = (card.scores[MODELS[0], key].measure for key in ("mmlu", "reference_loss"))
    row = table.groups[0].rows[0]
    assert row[4].text == f"{100 * mmlu.mean:.1f} ± {100 * mmlu.standard_error:.1f}"
    assert row[9].text == f"{loss.mean:.3f} ± {loss.standard_error:.3f}"  # two digits of the error


def test_a_model_that_was_not_measured_has_a_dash_and_the_baseline_an_even_win_rate(table: Table) -> None:
    rows = {row[0].text: [cell.text for cell in row] for row in table.groups[0].rows}
    assert rows["No fine-tuning"][5] == "–¹"
    assert table.caption.endswith(" ¹ All items are longer than its context.")
    assert rows["Self-Instruct"][1:3] == ["50", "50"]


def test_a_reason_that_models_share_is_told_once(card: Card, leaders: Marks) -> None:
    keys = [(model, key) for model in MODELS for key in ("gpqa", "mmlu")]
    bare = replace(card, scores={}, missing={**dict.fromkeys(keys, "none was given"), keys[1]: "all are too long"})
    caption = results(bare, leaders).caption
    assert caption.endswith("¹ All are too long. ² None was given.")


def test_only_leads_beyond_the_noise_are_marked(table: Table) -> None:
    marks = {head.title.split("\u00a0")[0]: [] for head in table.header[1:]}
    for row in table.groups[0].rows:
        for name, cell in zip(marks, row[1:], strict=True):
            marks[name].append(cell.mark)
    assert marks["MMLU"] == [None, None, None, "best"]  # the three others are alike
    assert marks["ARC-C"] == [None, None, "second", "best"]
    assert marks["GSM8K"] == marks["HellaSwag"] == marks["GPQA"] == [None] * 4
    assert marks["Reference loss"] == [None, None, "second", "best"]


def test_a_column_of_equal_models_has_no_mark() -> None:
    items = {str(i): float(i % 2) for i in range(100)}
    column = Column("A", "a", "%")
    equal = Card("c", "c", ["x", "y"], [column], {(model, "a"): score(items) for model in "xy"})
    assert [cell.mark for row in results(equal, marked(equal)).rows for cell in row] == [None] * 4


def test_published_rows_stand_apart_and_are_never_marked(card: Card, leaders: Marks, table: Table) -> None:
    measured, theirs = table.groups
    assert not measured.published and theirs.published and "8B" in theirs.title and "2410.14208" in theirs.title
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in theirs.rows}
    assert rows["Montessori-Instruct, iteration 2"] == [
        "56.82", "60.23", "7.092", "63.44", "31.19", "59.98", "60.05", "81.98", "–", "–",
    ]  # fmt: skip
    assert not any(cell.mark for row in theirs.rows for cell in row)
    assert len(results(replace(card, published=None), leaders).groups) == 1
    small = results(replace(card, published="1.1B"), leaders).groups[1]
    assert [cell.text for cell in small.rows[0][1:4]] == ["17.89", "17.56", "1.020"]


def test_a_benchmark_is_known_by_its_key_or_its_name() -> None:
    known = {
        ("arc_challenge", "ARC-C"): "arc_challenge",
        ("own", "ARC-C"): "arc_challenge",
        ("alpaca_eval_lc", "LC"): "alpaca_eval_lc",
        ("wr", "AlpacaEval WR"): "alpaca_eval",
        ("alpaca_eval_lc_unseen", "AlpacaEval LC, unseen"): None,
        ("gpqa_main_zeroshot", "x"): "gpqa",
    }
    for (key, name), expected in known.items():
        assert published.column_of(Column(name, key, "%")) == expected
    assert published.values("70B", Column("MMLU", "mmlu", "%")) == {}


def test_comparisons_give_each_model_minus_the_baseline(card: Card) -> None:
    table = comparisons(card, against_baseline(card))
    assert table
    groups = {group.title.replace("\u00a0", " "): group.rows for group in table.groups}
    mmlu = {row[0].text: [cell.text for cell in row[1:]] for row in groups["MMLU ↑ (%)"]}
    means = {model: 100 * card.scores[model, "mmlu"].measure.mean for model in MODELS}
    difference, interval, p, n = mmlu[MODELS[3]]
    assert difference == f"+{means[MODELS[3]] - means['Self-Instruct']:.1f}"
    assert re.fullmatch(r"\+\d+\.\d to \+\d+\.\d", interval) and p == "< 0.001" and n == "570"
    assert "Self-Instruct" not in mmlu
    assert [row[0].text for row in groups["GPQA ↑ (%)"]] == list(MODELS[2:])
    assert groups["AlpacaEval WR ↑ (%)"][0][1].text.startswith("−2")
    assert comparisons(replace(card, baseline=None), {}) is None


def test_each_column_with_groups_has_a_table_of_its_own(card: Card) -> None:
    bench, mmlu = categories(card)
    assert bench.name == "categories-mt_bench" and [row[0].text for row in bench.groups[0].rows][3] == "math"
    assert [row[-1].text for row in bench.groups[0].rows] == ["20"] * 8
    assert bench.groups[1].title == "By turn"
    assert [(row[0].text, row[-1].text) for row in bench.groups[1].rows] == [
        ("first turn", "80"),
        ("second turn", "80"),
    ]
    assert [row[0].text for row in mmlu.rows] == list(SUBJECTS)
    assert [head.title for head in mmlu.header] == ["Category", *MODELS, "n"]
    own = card.scores[MODELS[0], "mmlu"].groups[SUBJECTS[0]]
    assert mmlu.rows[0][1].text == f"{100 * own.mean:.1f} ± {100 * own.standard_error:.1f}"


def test_duels_and_overlaps_show_counts_and_shares(card: Card) -> None:
    fights, shared = duels(card), overlaps(card)
    assert fights and shared
    assert [cell.text for cell in fights.rows[2]] == [
        MODELS[3], MODELS[2], "301 (38%)", "260 (32%)", "240 (30%)", "801", "4",
    ]  # fmt: skip
    assert [cell.text for cell in shared.rows[0]] == ["AlpacaEval", "805", "256 (31.8%)", "135 (16.8%)"]
    assert [group.title for group in shared.groups] == ["Training data: iteration 1"]
    assert shared.header[-1].title == "13 words in a row"
    shorter = overlaps(replace(card, overlaps=[replace(one, words=8) for one in card.overlaps]))
    assert shorter and shorter.header[-1].title == "8 words in a row" and "13" not in shorter.caption
    again = overlaps(replace(card, overlaps=[*card.overlaps, replace(card.overlaps[0], data="iteration 2")]))
    assert again and [len(group.rows) for group in again.groups] == [2, 1]
    none = replace(card, duels=[], overlaps=[])
    assert duels(none) is None and overlaps(none) is None


def test_the_judges_ability_is_one_sentence(card: Card) -> None:
    said = judge_ability(card)
    assert "gpt-4o agrees with the majority of the people on 71.2 ± 1.4% of 981 pairs" in said
    assert "75.1%" in said and "104" in said and "12" in said
    alone = replace(card, ability=JudgeAbility("j", Measure(1, 0, 1), None, 0, 0))
    assert "100.0% of 1 pair;" in judge_ability(alone)
    assert judge_ability(replace(card, ability=None)) == ""


@pytest.mark.parametrize(
    ("card", "rows"),
    [
        (Card("c", "c", [], [], {}), 0),
        (Card("c", "c", ["only"], [], {}), 1),
        (Card("c", "c", ["only"], [Column("A", "a", "%")], {("only", "a"): score({"1": 1.0})}), 1),
        (Card("c", "c", ["only"], [Column("A", "a", "%", baseline="only")], {}), 1),
        (Card("c", "c", ["x"], [Column("A", "a", "%")], {("x", "a"): Score(Measure(float("nan"), 0, 0), {})}), 1),
    ],
    ids=["nothing", "no column", "one item", "a baseline alone", "no readable verdict"],
)
def test_a_card_with_hardly_anything_still_has_its_tables(card: Card, rows: int) -> None:
    tables = everything(card, marked(card), against_baseline(card))
    assert [table.name for table in tables] == ["results"] and len(tables[0].rows) == rows
    told = markdown.document(card.name, tables, notes=[judge_ability(card)]) + numbers(card) + json.dumps(metrics(card))
    assert "nan" not in told.lower()


def test_numbers_are_written_with_a_minus_and_without_a_negative_zero() -> None:
    assert number(-1.25, 1) == "−1.2" and number(2, 1, signed=True) == "+2.0"
    assert number(-0.004, 2) == "0.00" and number(-0.004, 2, signed=True) == "0.00"


def test_markdown_shows_marks_and_disarms_what_names_hold(card: Card, table: Table) -> None:
    text = markdown.document(card.name, [table], warnings=card.warnings, notes=[judge_ability(card)])
    assert re.search(r"\| \*\*\d\d\.\d ± \d\.\d\*\* \|", text) and re.search(r"\| <ins>[\d.]+ ± [\d.]+</ins> \|", text)
    assert "> 256 of AlpacaEval's instructions" in text and "MMLU ↑ (%, n = 570)" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {12}
    bad = hostile()
    text = markdown.document(bad.name, everything(bad, marked(bad), against_baseline(bad)), warnings=bad.warnings)
    assert "<script" not in text and r"\`\|\*\[z\]" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({re.sub(r"\\.", "", line).count("|") for line in rows}) > 1  # tables of different widths
    shown = html.unescape(re.sub(r"\\(.)", r"\1", rows[2]))
    assert HOSTILE.replace("\ud800", "").replace("\u202e", "").replace("\\", "") in shown.replace("\\", "")


def test_the_csv_has_plain_numbers_a_line_a_model_and_column(card: Card) -> None:
    rows = list(csv.DictReader(io.StringIO(numbers(replace(card, published=None)))))
    assert len(rows) == len(card.scores) and {row["source"] for row in rows} == {"measured"}
    (row,) = [r for r in rows if (r["model"], r["column"]) == (MODELS[3], "alpaca_eval")]
    own = card.scores[MODELS[3], "alpaca_eval"]
    assert float(row["mean"]) == pytest.approx(100 * own.measure.mean) and row["unit"] == "%"
    assert float(row["standard_error"]) == pytest.approx(100 * own.measure.standard_error)
    assert (row["n"], row["unreadable"], row["protocol"]) == ("805", "9", "805 instructions")
    bad = list(csv.DictReader(io.StringIO(numbers(hostile()))))
    assert bad[0]["model"] == HOSTILE


def test_metrics_hold_everything_in_the_columns_units(card: Card) -> None:
    told = json.loads(json.dumps(metrics(card), allow_nan=False))
    own = told["models"][MODELS[3]]["mmlu"]
    measured = card.scores[MODELS[3], "mmlu"]
    assert own["mean"] == pytest.approx(100 * measured.measure.mean) and own["n"] == 570 and own["unit"] == "%"
    assert own["groups"][SUBJECTS[0]]["mean"] == pytest.approx(100 * measured.groups[SUBJECTS[0]].mean)
    assert told["models"][MODELS[0]]["alpaca_eval"]["notes"] == ["no length control: too few models"]
    assert "gpqa" not in told["models"][MODELS[0]]
    (gap,) = [c for c in told["comparisons"] if (c["model"], c["column"]) == (MODELS[3], "arc_challenge")]
    assert gap["low"] < gap["difference"] < gap["high"] and 0 < gap["p_value"] < 0.05 and gap["unit"] == "%"
    assert told["duels"][0]["wins"] == 412 and told["overlaps"][1]["ngram"] == 10
    assert told["ability"]["accuracy"]["mean"] == 0.712 and told["warnings"] == card.warnings
    assert told["versions"]["lm_eval"] == "0.4.13" and told["usage"]["the judge"]["usd"] == 12.5
    assert told["models"][MODELS[0]]["mt_bench"]["turns"]["second turn"]["n"] == 80
    why = "all items are longer than its context"
    assert told["missing"] == [{"model": "No fine-tuning", "column": "gpqa", "why": why}]


def test_what_the_paper_published_stands_apart_in_every_form(card: Card, leaders: Marks) -> None:
    rows = [row for row in csv.DictReader(io.StringIO(numbers(card))) if row["source"] != "measured"]
    (own,) = [r for r in rows if (r["model"], r["column"]) == ("Montessori-Instruct, iteration 2", "mmlu")]
    assert (own["mean"], own["standard_error"], own["n"], own["unit"]) == ("63.44", "", "", "%")
    assert own["source"].startswith("published: Montessori-Instruct, Table 1") and own["source"].endswith("8B students")
    told = metrics(card)["published"]
    assert told["students"] == "8B" and "2410.14208" in told["source"]
    assert told["methods"]["Self-Instruct"]["alpaca_eval"] == {"mean": 50, "unit": "%"}
    assert told["methods"].keys() == published.ROWS["8B"].keys()
    assert metrics(card)["models"].keys() == set(MODELS)
    assert metrics(replace(card, published=None))["published"] is None
    tex = latex.document([results(card, leaders)])
    assert "Published, 8B students" in tex and "63.44" in tex


def test_metrics_say_null_where_a_number_is_unknown() -> None:
    broken = Card("c", "c", ["x"], [Column("A", "a", "%")], {("x", "a"): Score(Measure(float("nan"), 0, 0), {})})
    assert metrics(broken)["models"]["x"]["a"]["mean"] is None
    one = Card("c", "c", ["x"], [Column("A", "a", "%")], {("x", "a"): score({"1": 1.0}, lambda _: "part")})
    told = metrics(one)["models"]["x"]["a"]
    assert told["standard_error"] is None and told["groups"]["part"]["standard_error"] is None
    assert ",1.0,,1,%" in numbers(one)


def test_columns_that_nobody_was_measured_in_stay_in_sight(card: Card, leaders: Marks) -> None:
    empty = replace(card, columns=[*card.columns, Column("Later", "later", "%")])
    table = results(empty, {**leaders, "later": {}})
    assert table.header[-1].title.startswith("Later") and list(table.header[-1].about) == ["%"]
    assert "Later ↑ (%) |" in markdown.rows_of(table).replace("\u00a0", " ")
    assert {row[-1].text for row in table.rows} == {"–"}
    assert ordered(empty)[-1].key == "later"


def test_one_item_has_no_error() -> None:
    assert written(measure([0.5]), 2, scale=100) == "50.00"
