"""The judge against people: PandaLM's own file, and shares counted by hand."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from montessori.data.rows import write_rows
from montessori.errors import InputError, StageError
from montessori.evaluation.agreement import Pair, answer_rows, measure_judge, read_pairs

FILE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "preference" / "pandalm_testset_v1.jsonl"
needs_data = pytest.mark.skipif(not FILE.is_file(), reason="PandaLM's file is not on this machine")
ROW = {
    "instruction": "Add.", "input": "1 and 2", "response1": "3", "response2": "4",
    "annotator1": 1, "annotator2": 1, "annotator3": 0,
}  # fmt: skip


def verdicts(**said):
    """Of each pair the preference for the second answer, shown second and shown first."""
    return [
        {"id": id.removeprefix("p"), "swapped": swapped, "preference": preference}
        for id, given in said.items()
        for swapped, preference in zip((False, True), given, strict=True)
    ]


def pair(id, *said):
    return Pair(id, "Why?", "a", "b", tuple({0: "tie", 1: "left", 2: "right"}[number] for number in said))


@needs_data
def test_pandalms_file_is_read_whole():
    pairs = read_pairs(FILE)
    assert len(pairs) == 999
    assert all(pair.majority for pair in pairs)  # as the file's own readers find
    with FILE.open() as file:
        rows = [json.loads(line) for line in file]
    said = Counter({0: "tie", 1: "left", 2: "right"}[row[f"annotator{n}"]] for row in rows for n in (1, 2, 3))
    assert Counter(one for pair in pairs for one in pair.people) == said
    assert pairs[157].left == "True"  # where the file has the value true
    assert pairs[0].question.endswith("scope for this project, please let me know.")


@needs_data
def test_a_judge_that_is_one_of_the_people_agrees_as_one_of_them_does():
    pairs = read_pairs(FILE)
    answers = {"tie": (0.0, 1.0), "left": (0.1, 0.2), "right": (0.9, 0.8)}
    said = verdicts(**{f"p{pair.id}": answers[pair.people[0]] for pair in pairs})
    ability = measure_judge("the first of them", pairs, said)
    own = sum(pair.people[0] == pair.majority for pair in pairs) / len(pairs)
    assert ability.accuracy.mean == pytest.approx(own)
    assert ability.accuracy.n == 999
    assert ability.ties == sum(pair.people[0] == "tie" for pair in pairs)
    shares = []
    for who in range(3):
        others = [[pair.people[n] for n in range(3) if n != who] for pair in pairs]
        agreed = [pair.people[who] == two[0] for pair, two in zip(pairs, others, strict=True) if two[0] == two[1]]
        shares.append(sum(agreed) / len(agreed))
    assert ability.agreement_of_people == pytest.approx(sum(shares) / 3)
    assert 0.8 < ability.agreement_of_people < own


def test_a_verdict_is_right_where_it_is_the_majoritys():
    pairs = [pair("0", 1, 1, 2), pair("1", 2, 2, 2), pair("2", 0, 0, 1), pair("3", 1, 1, 1), pair("4", 0, 1, 2)]
    said = verdicts(p0=(0.1, 0.2), p1=(0.9, 0.3), p2=(0.5, 0.5), p3=(0.2, None), p4=(0.1, 0.1))
    ability = measure_judge("judge", pairs, said)
    assert ability.accuracy.mean == pytest.approx(2 / 3)  # the first and the third; the second is a tie
    assert ability.accuracy.standard_error == pytest.approx(1 / 3)
    assert (ability.accuracy.n, ability.ties, ability.unreadable) == (3, 2, 1)
    # Of the three that count: the first agrees with two that agree in the second alone, the second as well; the third
    # in the second, and not in the first and third.
    assert ability.agreement_of_people == pytest.approx((1 + 1 + 1 / 3) / 3)


def test_pairs_that_were_not_judged_are_left_out():
    ability = measure_judge("judge", [pair("0", 1, 1, 1), pair("1", 2, 2, 2)], verdicts(p1=(0.9, 0.9)))
    assert (ability.accuracy.mean, ability.accuracy.n) == (1, 1)
    with pytest.raises(StageError, match="none of the judge's 1 verdicts"):
        measure_judge("judge", [pair("0", 1, 1, 1)], verdicts(p0=(None, 0.9)))


def test_both_answers_of_a_pair_become_rows_of_answers(tmp_path):
    (tmp_path / "people.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "input": ""}) + "\n")
    left, right = answer_rows(read_pairs(tmp_path / "people.jsonl"))
    assert [row["turns"] for row in left] == [["Add. 1 and 2"], ["Add."]]
    assert [(row["id"], row["index"]) for row in right] == [("0", 0), ("1", 1)]
    assert left[0]["answers"] == ["3"]
    assert right[0] == {**left[0], "answers": ["4"]}
    assert left[0].keys() == {"id", "index", "category", "turns", "answers", "tokens", "finish_reasons"}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_every_form_of_file_says_the_same(tmp_path, ending):
    path = tmp_path / f"people.{ending}"
    if ending == "parquet":
        write_rows(path, [ROW])
    elif ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROW))
            writer.writeheader()
            writer.writerow(ROW)
    else:
        text = json.dumps([ROW] if ending == "json" else ROW).encode()
        path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    assert read_pairs(path) == [Pair("0", "Add. 1 and 2", "3", "4", ("left", "left", "tie"))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            json.dumps({k: v for k, v in ROW.items() if k != "annotator3"}),
            "line 1: lacks annotator3; expected the fields",
        ),
        (
            json.dumps(ROW) + "\n" + json.dumps({**ROW, "annotator2": 3}),
            "line 2: annotator2 is 3; expected 0 for a tie",
        ),
        (json.dumps({**ROW, "response1": None}), "line 1: response1 is None; expected text"),
        (json.dumps(ROW) + "\n{", "line 2 is not JSON"),
        ("[1, 2]", "element 1: expected an object with the fields instruction, input"),
        ("\n", "people.source = .*people.jsonl: no rows"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, said):
    (tmp_path / "people.jsonl").write_text(text)
    with pytest.raises(InputError, match=said):
        read_pairs(tmp_path / "people.jsonl")
