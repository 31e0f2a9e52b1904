"""The overlap of benchmarks with training data: the same as found by comparing every text with every other."""

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from montessori.artifacts import Request, Store, open_store
from montessori.data.rows import write_rows
from montessori.errors import InputError
from montessori.evaluation.card import Overlap
from montessori.evaluation.overlap import Item, Point, grams, normalise, overlaps
from tasks.benchmarks import measure_overlap
from tasks.runtime.job import Job

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")
LONG = " ".join(f"word{i}" for i in range(20))

text = st.lists(st.sampled_from(["a", "b", "A.", "c-c", "é", "7"]), max_size=9).map(" ".join)


def naive(items: Sequence[Item], training: Sequence[Point], n: int) -> tuple[int, int]:
    """Exact and n-gram counts, every item against every point, word by word."""

    def words(of: str) -> list[str]:
        return re.findall(r"\w+", of.lower())

    def shares(one: str, other: str) -> bool:
        a, b = words(one), words(other)
        return any(
            a[i : i + n] == b[k : k + n] for i in range(len(a) - n + 1) for k in range(len(b) - n + 1)
        )  # fmt: skip

    exact = sum(any(words(t) and words(t) == words(p) for t in item for p, _ in training) for item in items)
    ngram = sum(any(shares(t, whole) for t in item for _, whole in training) for item in items)
    return exact, ngram


def counts(items: Sequence[Item], training: Sequence[Point], n: int = 13) -> tuple[int, int]:
    (result,) = overlaps({"b": items}, training, n)
    assert result.items == len(items)
    return result.exact, result.ngram


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(text, min_size=1, max_size=2), max_size=5), st.lists(st.tuples(text, text), max_size=5))
def test_counts_are_those_of_comparing_everything_with_everything(items, texts):
    training = [(instruction, f"{instruction}\n{response}") for instruction, response in texts]
    assert counts(items, training, n=3) == naive(items, training, n=3)


def test_case_punctuation_and_form_of_letters_make_no_difference():
    assert normalise("  Hello, WORLD!  Ünïcode 中文 ９7 _x") == "hello world ünïcode 中文 97 _x"
    assert normalise("cafe\u0301") == normalise("café")
    assert counts([["What is  this?"]], [("what is this", "what is this\nNothing.")]) == (1, 0)


def test_thirteen_words_in_a_row_count_and_twelve_do_not():
    words = LONG.split()
    assert counts([[LONG]], [("x", " ".join(words[3:16]))]) == (0, 1)
    assert counts([[LONG]], [("x", " ".join(words[3:15]) + " other")]) == (0, 0)
    assert len(list(grams(LONG, 13))) == 8


def test_a_short_item_can_only_be_exact():
    short = " ".join(LONG.split()[:12])
    assert counts([[short]], [(LONG, LONG)]) == (0, 0)
    assert counts([[short]], [(short, short)]) == (1, 0)
    assert counts([["?!"]], [("", "")]) == (0, 0)  # no words at all


def test_any_turn_of_a_question_may_be_shared_but_no_words_across_turns():
    first, second = " ".join(LONG.split()[:10]), " ".join(LONG.split()[10:])
    assert counts([[first, second]], [(LONG, LONG)]) == (0, 0)
    assert counts([["Hello.", second]], [(second, second)]) == (1, 0)


def test_benchmarks_are_counted_apart_and_examples_show_no_more_than_what_is_shared():
    secret = f"{LONG} the answer is hidden"
    result = overlaps({"one": [[secret], [secret]], "two": [["nothing"]]}, [("x", LONG)])
    assert result == [
        Overlap("one", 2, 0, 2, [" ".join(LONG.split()[:13])]),
        Overlap("two", 1, 0, 0, []),
    ]


@real_data
def test_the_reference_set_holds_the_first_256_instructions_of_alpaca_eval():
    asked = [json.loads(line)["instruction"] for line in open_text("alpaca_eval/gpt4_1106_preview.jsonl")]
    rows = [json.loads(line) for line in open_text("reference/montessori_reference_set.jsonl")]
    training = [(row["instruction"], f"{row['instruction']}\n{row['response']}") for row in rows]
    assert counts([[question] for question in asked], training)[0] == 256
    assert counts([[question] for question in asked[256:]], training)[0] == 0


@real_data
def test_gsm8ks_training_set_shares_with_its_test_set_what_sets_of_word_tuples_say():
    def tuples(of: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", of.lower())
        return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}

    test = [row["question"] for row in map(json.loads, open_text("gsm8k/test.jsonl"))]
    with gzip.open(DATA / "gsm8k/train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    training = [(row["question"], f"{row['question']}\n{row['answer']}") for row in rows]
    known = set().union(*(tuples(whole) for _, whole in training))
    shared = sum(not known.isdisjoint(tuples(question)) for question in test)
    assert shared > 0
    assert counts([[question] for question in test], training) == (0, shared)


def open_text(name: str) -> list[str]:
    return (DATA / name).read_text(encoding="utf-8").splitlines()


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path / "store"))


def artifact(store: Store, address: str, file: str, rows: list[dict]) -> str:
    with store.staging() as folder:
        write_rows(folder / file, rows)
        store.commit(address, folder, {"summary": {}, "seconds": 0.0})
    return address


def run(store: Store, folder: Path, inputs: dict[str, list[str]], **names: list[str]) -> dict:
    request = Request(stage="overlap", version=1, settings=names, inputs=inputs, seed=0)
    folder.mkdir(exist_ok=True)
    return measure_overlap.run(Job(request, store, folder), measure_overlap.Settings.model_validate(names))


def test_the_stage_counts_every_benchmark_and_puts_shards_together(store, tmp_path):
    pairs = artifact(store, "responses/aa", "pairs.parquet", [{"instruction": "Say hi", "response": "hi"}])
    turns = [{"role": "user", "content": LONG}, {"role": "user", "content": "And now?"}]
    rows = artifact(
        store, "points/bb", "rows.parquet", [{"instruction": "And now?", "response": None, "messages": turns}]
    )
    shards = [
        artifact(store, f"benchmark/{i}", "items.parquet", [{"question": said, "text": said, "values": "{}"}])
        for i, said in enumerate([f"Q: {LONG}", "say HI!"])
    ]
    asked = artifact(store, "questions/cc", "questions.parquet", [{"turns": ["And now?", "Then?"]}, {"turns": ["No"]}])
    summary = run(
        store, tmp_path / "out", {"pairs": [pairs, rows], "items": shards, "questions": [asked]},
        items=["ARC-C", "ARC-C"], questions=["MT-Bench"],
    )  # fmt: skip
    assert summary == {"training_points": 2, "items": 4, "exact": 2, "ngram": 1}
    result = [Overlap(**each) for each in json.loads((tmp_path / "out/overlap.json").read_text())]
    assert [(o.benchmark, o.items, o.exact, o.ngram) for o in result] == [("ARC-C", 2, 1, 1), ("MT-Bench", 2, 1, 0)]


def test_a_benchmark_without_a_name_and_data_without_rows_are_told(store, tmp_path):
    asked = artifact(store, "questions/cc", "questions.parquet", [{"turns": ["No"]}])
    with pytest.raises(InputError, match=r"settings\.questions has 0 names for 1 artifacts; give each one its name"):
        run(store, tmp_path, {"pairs": [asked], "questions": [asked]})
    with pytest.raises(InputError, match=r"neither pairs\.parquet nor rows\.parquet; give training data"):
        run(store, tmp_path, {"pairs": [asked], "questions": [asked]}, questions=["x"])
