"""Near-duplicates: the decisions of rouge_score, in any script."""

import gzip
import itertools
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq
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


@pytest.mark.parametrize(("threshold", "ties_above"), [("0.7", 50), ("0.5", 44), ("0.9", 0), ("0.55", 4)])
def test_every_pair_of_lengths_turns_into_a_duplicate_where_rouge_score_says(threshold, ties_above):
    """All lengths to 60 with the common subsequences around the threshold, ties among them: there rounding decides."""
    exact, limit = Fraction(threshold), float(threshold)
    wrong, ties = [], Counter()
    for m, n in itertools.product(range(1, 61), repeat=2):
        below = int(exact * (m + n) / 2)  # 2·LCS/(m + n) is at most the threshold, and exactly it at a tie
        for common in range(max(below - 1, 0), min(below + 1, m, n) + 1):
            expected = reference_f1(common, m, n) > limit
            ties[expected] += 2 * common == exact * (m + n)
            if is_duplicate(*with_common(common, m, n), limit) != expected:
                wrong.append((common, m, n))
    assert wrong == []
    assert ties[False]
    assert ties[True] == ties_above


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


def real_instructions(rows: int) -> list[str]:
    """Without those that rouge_score tokenises otherwise: it splits words at "_" and at what is not ASCII."""
    if not SEEDS.is_dir():
        pytest.skip("no sample data")
    with gzip.open(SEEDS / "alpaca_cleaned_full.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for line in itertools.islice(file, rows)]
    return [text for text in texts if text.isascii() and "_" not in text]


def test_decisions_equal_rouge_score_between_real_instructions():
    like = sorted(real_instructions(2000))[:150]
    expected = admitted_by_rouge_score(like, 0.5)
    assert expected.count(False) > 5
    assert admitted(like, 0.5) == expected


def edited(text: str, words: list[str], draw: random.Random) -> str:
    """Some of the words of `text` left out, replaced, repeated or exchanged: about as likely a duplicate as not."""
    odds, kept = draw.choice([0.02, 0.1, 0.2, 0.3]), text.split()
    kept = [draw.choice(words) if draw.random() < odds else word for word in kept if draw.random() > odds]
    kept = [word for word in kept for _ in range(1 + (draw.random() < odds))] or [draw.choice(words)]
    if draw.random() < odds:
        i, j = draw.randrange(len(kept)), draw.randrange(len(kept))
        kept[i], kept[j] = kept[j], kept[i]
    return " ".join(kept)


def random_pairs(number: int, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Of few and of many different words; every other pair is a text and its edited copy."""
    vocabularies = [[f"w{i}" for i in range(size)] for size in (2, 5, 30, 3000)]
    for _ in range(number):
        words = draw.choice(vocabularies)
        one = " ".join(draw.choices(words, k=draw.randint(1, 12)))
        same = draw.random() < 0.5
        yield one, edited(one, words, draw) if same else " ".join(draw.choices(words, k=draw.randint(1, 12)))


def real_pairs(number: int, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Instructions next to each other in the alphabet, and instructions with their edited copies."""
    texts = sorted(real_instructions(number * 6 // 10))
    words = " ".join(texts).split()
    near = list(itertools.islice(itertools.pairwise(texts), number // 2))
    yield from near
    yield from ((one, edited(one, words, draw)) for one in draw.sample(texts, number - len(near)))


@pytest.mark.long
@pytest.mark.parametrize(("pairs", "number"), [(random_pairs, 77_000), (real_pairs, 23_000)], ids=["random", "real"])
def test_decisions_equal_rouge_score_on_a_hundred_thousand_pairs(pairs, number):
    draw, decisions, wrong = random.Random(0), Counter(), []
    for one, other in pairs(number, draw):
        threshold = draw.choice([0.5, 0.55, 0.7, 0.7, 0.9])
        expected = rouge_l(one, other) > threshold
        decisions[expected] += 1
        if is_duplicate(one, other, threshold) != expected:
            wrong.append((one, other, threshold))
    assert wrong == []
    assert decisions.total() == number
    assert min(decisions[True], decisions[False]) > number / 10


def mixed_texts(number: int, draw: random.Random) -> list[str]:
    """Of every kind that a bound could go wrong with, half of them edited copies of an earlier one."""
    many, few = [f"w{i}" for i in range(3000)], ["add", "the", "list", "of", "x2", "to", "a", "by"]
    common = list(itertools.accumulate(1 / rank for rank in range(1, len(many) + 1)))
    head = draw.sample(many, 20)
    kinds = [
        lambda: draw.choices(many, cum_weights=common, k=draw.randint(1, 60)),
        lambda: draw.choices(many, k=40),
        lambda: head + draw.choices(many, k=draw.randint(5, 20)),
        lambda: draw.sample(head, len(head)),
        lambda: draw.choices(few, k=draw.randint(1, 60)),
        lambda: draw.choices(few, k=60),
        lambda: draw.choices(many, k=1),
        lambda: draw.choices(many, k=draw.randint(300, 700)),
        lambda: [draw.choice(few)] * draw.randint(1, 60),
    ]
    texts: list[str] = []
    for _ in range(number):
        again = texts and draw.random() < 0.5
        texts.append(edited(draw.choice(texts), many, draw) if again else " ".join(draw.choice(kinds)()))
    return texts


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.55, 0.7, 0.9, 1.0])
def test_decisions_in_a_long_mixed_list_equal_those_of_comparing_every_pair(threshold):
    texts = mixed_texts(1200, random.Random(0))
    codes: dict[str, str] = {}
    kept: list[str] = []
    expected = []
    for text in texts:
        new = "".join(codes.setdefault(word, chr(1 + len(codes))) for word in text.split())
        common = (LCSseq.similarity(new, other) for other in kept)
        f1 = (reference_f1(c, len(new), len(other)) for c, other in zip(common, kept, strict=True))
        expected.append(all(score <= threshold for score in f1))
        kept += [new] if expected[-1] else []
    assert threshold in (0.0, 1.0) or 100 < sum(expected) < 1100
    assert admitted(texts, threshold) == expected


def test_instructions_that_share_most_of_a_long_head_are_told_apart():
    near, head = NearDuplicates(), " ".join(f"h{i}" for i in range(26))
    tails = [" ".join(f"t{n}x{i}" for i in range(14)) for n in range(300)]
    assert all(near.admit(f"{head} {tail}") for tail in tails)
    assert not any(near.admit(f"{head} and {tail}") for tail in tails)


def test_the_same_words_in_another_order_are_new():
    near, draw, words = NearDuplicates(), random.Random(0), [f"w{i}" for i in range(40)]
    assert all(near.admit(" ".join(draw.sample(words, 40))) for _ in range(300))


def test_a_text_of_thousands_of_tokens_is_judged_like_any_other():
    near, draw = NearDuplicates(), random.Random(0)
    long = [f"w{draw.randrange(3000)}" for _ in range(6000)]
    assert near.admit(" ".join(long))
    assert near.admit(" ".join(long[:3000]))  # F1 is 2/3
    assert not near.admit(" ".join(long[:3400]))
    assert near.admit(" ".join(reversed(long)))
    assert near.admit("w1")
    assert not near.admit("W1!")


def test_white_space_is_no_near_duplicate_of_anything():
    near = NearDuplicates(0.0)
    assert [near.admit(text) for text in ["", " ", "\n", "a", "", "a"]] == [True, True, True, True, True, False]
    assert near.admit("b", also_against=["", " "])


def test_memory_grows_in_proportion_to_the_instructions():
    def peak(number: int) -> int:
        tracemalloc.start()
        near, draw = NearDuplicates(), random.Random(0)
        for _ in range(number):
            assert near.admit(" ".join(f"w{draw.randrange(3000)}" for _ in range(20)))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(2000) < 5 * peak(500)


def test_the_prompts_own_seeds_count_but_are_not_remembered():
    near = NearDuplicates()
    assert not near.admit("Add two and three.", also_against=["Name a colour.", "Add two and three!"])
    assert near.admit("Add two and three.", also_against=["Name a colour."])
    assert not near.admit("add two and three")


def test_the_prompts_own_seeds_are_judged_like_accepted_instructions():
    pairs = list(random_pairs(3000, random.Random(1)))
    expected = [is_duplicate(one, other) for one, other in pairs]
    assert [not NearDuplicates().admit(other, also_against=["", one, "z"]) for one, other in pairs] == expected


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
