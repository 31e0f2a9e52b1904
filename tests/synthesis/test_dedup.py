"""Near-duplicates: the decisions of rouge_score, in any script."""

import gzip
import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer, scoring

from montessori.synthesis.dedup import NearDuplicates, rouge_l_f1

SEEDS = Path(__file__).resolve().parents[2] / "../shared/data/seeds"
SCORER = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)


def rouge_l(one: str, other: str) -> float:
    return SCORER.score(one, other)["rougeL"].fmeasure


def is_duplicate(one: str, other: str, max_rouge_l: float = 0.7) -> bool:
    near = NearDuplicates(max_rouge_l)
    assert near.admit(one)
    return not near.admit(other)


def admitted(texts: list[str], max_rouge_l: float = 0.7) -> list[bool]:
    near = NearDuplicates(max_rouge_l)
    return [near.admit(text) for text in texts]


def admitted_by_rouge_score(texts: list[str], max_rouge_l: float = 0.7) -> list[bool]:
    kept: list[str] = []
    decisions = []
    for text in texts:
        decisions.append(all(rouge_l(other, text) <= max_rouge_l for other in kept))
        kept += [text] if decisions[-1] else []
    return decisions


def reference_f1(common: int, m: int, n: int) -> float:
    """As in rouge_score's `_score_lcs`."""
    return scoring.fmeasure(common / m, common / n)


def test_f1_equals_rouge_score_to_the_last_bit():
    pairs = itertools.product(range(1, 61), repeat=2)
    differ = [
        (common, m, n)
        for m, n in pairs
        for common in range(1, min(m, n) + 1)
        if rouge_l_f1(common, m, n) != reference_f1(common, m, n)
    ]
    assert differ == []
    assert rouge_l_f1(0, 5, 5) == 0.0


def with_common(common: int, m: int, n: int) -> tuple[str, str]:
    """Texts of `m` and `n` tokens whose longest common subsequence has `common`."""
    shared = [f"c{i}" for i in range(common)]
    left = shared + [f"a{i}" for i in range(m - common)]
    return " ".join(left), " ".join([f"b{i}" for i in range(n - common)] + shared)


def test_decisions_equal_rouge_score_where_rounding_decides():
    """2·LCS/(m + n) is exactly 7/10 there: in floating point 0.7 or a hair above, as the operations are ordered."""
    at_the_threshold = [
        (common, m, n)
        for m, n in itertools.product(range(1, 61), repeat=2)
        for common in range(1, min(m, n) + 1)
        if 20 * common == 7 * (m + n)
    ]
    expected = {triple: reference_f1(*triple) > 0.7 for triple in at_the_threshold}
    assert 0 < sum(expected.values()) < len(expected)
    decided = {triple: is_duplicate(*with_common(*triple)) for triple in at_the_threshold}
    assert decided == expected


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_decisions_equal_rouge_score_on_random_texts(threshold):
    draw = random.Random(0)
    words = ["add", "the", "list", "of", "it's", "well-known", "x2"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(150)]
    expected = admitted_by_rouge_score(texts, threshold)
    assert 5 < sum(expected) < 145
    assert admitted(texts, threshold) == expected


@pytest.mark.skipif(not SEEDS.is_dir(), reason="no sample data")
def test_decisions_equal_rouge_score_on_real_instructions_that_lost_a_third_of_their_words():
    with (SEEDS / "alpaca_gpt4_sample_999.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for line in file]
    draw = random.Random(0)
    # rouge_score splits words at "_" and at what is not ASCII, so that only these can be compared.
    whole = [text for text in texts if text.isascii() and "_" not in text]
    short = [" ".join(word for word in text.split() if draw.random() > 0.45) for text in whole]
    expected = [rouge_l(one, other) > 0.7 for one, other in zip(whole, short, strict=True)]
    assert 100 < sum(expected) < 900
    assert [is_duplicate(one, other) for one, other in zip(whole, short, strict=True)] == expected


@pytest.mark.skipif(not SEEDS.is_dir(), reason="no sample data")
def test_decisions_equal_rouge_score_between_real_instructions():
    with gzip.open(SEEDS / "alpaca_cleaned_full.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for line in itertools.islice(file, 2000)]
    like = sorted(text for text in texts if text.isascii() and "_" not in text)[:150]
    expected = admitted_by_rouge_score(like, 0.5)
    assert expected.count(False) > 5
    assert admitted(like, 0.5) == expected


def test_the_prompts_own_seeds_count_but_are_not_remembered():
    near = NearDuplicates()
    assert not near.admit("Add two and three.", also_against=["Name a colour.", "Add two and three!"])
    assert near.admit("Add two and three.", also_against=["Name a colour."])
    assert not near.admit("add two and three")


def test_a_rejected_instruction_is_not_remembered():
    near = NearDuplicates()
    assert near.admit("a b c d e f g h i j")
    assert not near.admit("a b c d e f g h x y")
    assert near.admit("k l m n a b c d x y")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("写一首关于大海的短诗。", "解释为什么天空是蓝色的?"),
        ("日本の首都はどこですか。", "短い詩を書いてください。"),
        ("프랑스의 수도는 어디입니까?", "바다에 대한 짧은 시를 쓰세요."),
        ("ما هي عاصمة فرنسا؟", "اكتب قصيدة قصيرة عن البحر"),
        ("مَا هِيَ عَاصِمَةُ فَرَنْسَا", "مُو هُوَ عُوصُمُةَ فُرُنْسُو"),
        ("เมืองหลวงของประเทศไทยคืออะไร", "เขียนบทกวีสั้น ๆ เกี่ยวกับทะเล"),
        ("पानी कैसे उबाला जाता है?", "पौने कोसे उबले जोता हो?"),
        ("Почему небо голубое?", "Напиши короткое стихотворение о море."),
        ("😀😃😄", "🚀🌍🌙"),
        ("def add(a, b): return a + b", "for row in table: print(row.name)"),
        ("e\u0301te\u0301", "e\u0300te\u0300"),
    ],
    ids=["zh", "ja", "ko", "ar", "ar-vowels", "th", "hi", "ru", "emoji", "code", "accents"],
)
def test_in_any_script_equal_texts_are_duplicates_and_different_ones_are_not(one, other):
    assert is_duplicate(one, one)
    assert not is_duplicate(one, other)


def test_one_changed_character_of_a_text_without_spaces_is_a_near_duplicate():
    assert is_duplicate("写一首关于大海的短诗。", "写一首关于大山的短诗。")
    assert is_duplicate("เมืองหลวงของประเทศไทยคืออะไร", "เมืองหลวงของประเทศลาวคืออะไร")


def test_case_and_punctuation_do_not_make_an_instruction_new():
    assert is_duplicate("Name three colours", "NAME: three, colours!?")


@settings(deadline=None)  # an example may take long on a busy machine
@given(st.text(), st.text())
def test_any_text_can_be_judged_and_repeats_itself(one, other):
    near = NearDuplicates()
    near.admit(one)
    near.admit(other)
    if one.strip():
        assert not near.admit(one)


def test_many_different_words_are_still_told_apart():
    """More tokens than fit in two bytes, past the code points that strings cannot be encoded with."""
    near = NearDuplicates()
    assert all(near.admit(" ".join(f"w{n + i}" for i in range(50))) for n in range(0, 70_000, 50))
    assert not near.admit(" ".join(f"w{55_000 + i}" for i in range(50)))
    assert near.admit(" ".join(f"w{i * 1000}" for i in range(50)))
