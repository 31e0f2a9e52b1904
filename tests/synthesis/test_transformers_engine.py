"""The transformers engine against a loop written out by hand: no cache, no padding, no batch."""

import copy
import itertools
import math
import random
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, RepetitionPenaltyLogitsProcessor

from montessori.data.chat import prompt_ids, user
from montessori.errors import InputError
from montessori.settings.generation import Sampling
from montessori.synthesis.engines.transformers import TransformersEngine, _GumbelSampler, _processors

GREEDY = Sampling(temperature=0, top_p=1, presence_penalty=0, repetition_penalty=1, max_tokens=12)
PAPER = Sampling(temperature=1.0, top_p=0.9, presence_penalty=1, repetition_penalty=1.5, max_tokens=12)
WARM = Sampling(temperature=0.6, top_p=0.9, presence_penalty=1, repetition_penalty=1, max_tokens=12)
TEXTS = [
    "Name three colours.",
    "a",
    "Write a short poem about the sea and the wind, and then sort its words by their length. " * 3,
    "Add 12 and 30.",
    "What is the capital of France?",
]
PROMPTS = [user(text) for text in TEXTS]
SEEDS = [11, 22, 33, 44, 55]
# Weights this large make the next token depend on all tokens before it, so that a wrong mask or position shows.
SPREAD = {"initializer_range": 0.3}


@pytest.fixture
def bare_tokenizer(tiny_tokenizer):
    """Renders a prompt as its text alone, so that prompts can be a single token."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return tokenizer


@pytest.fixture
def engine(tiny_llama, bare_tokenizer):
    return TransformersEngine(tiny_llama(**SPREAD), bare_tokenizer)


def ids_of(tokenizer, prompt):
    return prompt_ids(tokenizer, [prompt])[0]


@torch.inference_mode()
def by_hand(model, tokenizer, ids, sampling, seed=0, ends=(2,)):
    """One answer, a token at a time from the whole text so far, with the sampling settings as vLLM defines them."""
    generator, out = torch.Generator().manual_seed(seed), []
    for _ in range(sampling.max_tokens):
        scores = model(input_ids=torch.tensor([ids + out])).logits[0, -1].tolist()
        for token in set(ids + out):
            score = scores[token]
            scores[token] = score / sampling.repetition_penalty if score > 0 else score * sampling.repetition_penalty
        for token, times in Counter(out).items():
            scores[token] -= sampling.presence_penalty + sampling.frequency_penalty * times
        if sampling.temperature:
            scores = nucleus([score / sampling.temperature for score in scores], sampling.top_p)
            noise = torch.rand(len(scores), generator=generator).tolist()
            scores = [score - math.log(-math.log(u)) for score, u in zip(scores, noise, strict=True)]
        out.append(max(range(len(scores)), key=scores.__getitem__))
        if out[-1] in ends:
            return tokenizer.decode(out[:-1], skip_special_tokens=True), "stop", len(out)
        text = tokenizer.decode(out, skip_special_tokens=True)
        if found := [text.index(stop) for stop in sampling.stop if stop in text]:
            return text[: min(found)], "stop", len(out)
    return text, "length", len(out)


def nucleus(scores, top_p):
    """`scores` with all but the smallest set of likeliest tokens that holds `top_p` at minus infinity."""
    total = math.fsum(math.exp(score) for score in scores)
    kept, mass = [-math.inf] * len(scores), 0.0
    for token in sorted(range(len(scores)), key=scores.__getitem__, reverse=True):
        if mass < top_p:
            kept[token] = scores[token]
        mass += math.exp(scores[token]) / total
    return kept


def plain(answers):
    """The texts for every prompt, in the prompts' order; there must be one answer for each."""
    listed = list(answers)
    by_index = dict(listed)
    assert sorted(by_index) == list(range(len(listed)))
    return [[(g.text, g.finish_reason, g.tokens) for g in by_index[i].generations] for i in range(len(listed))]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_greedy_answers_are_those_of_the_whole_text_one_by_one(engine, batch_size):
    engine.batch_size = batch_size
    expected = [[by_hand(engine.model, engine.tokenizer, ids_of(engine.tokenizer, p), GREEDY)] * 2 for p in PROMPTS]
    assert len({samples[0][0] for samples in expected}) == 5
    assert plain(engine.generate(PROMPTS, GREEDY, 2, SEEDS)) == expected


@pytest.mark.parametrize("sampling", [PAPER, WARM], ids=["paper", "warm"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_sampled_answers_are_those_of_the_whole_text_one_by_one(engine, sampling, batch_size):
    engine.batch_size = batch_size
    expected = [
        [
            by_hand(engine.model, engine.tokenizer, ids_of(engine.tokenizer, prompt), sampling, seed * 3 + number)
            for number in range(3)
        ]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert plain(engine.generate(PROMPTS, sampling, 3, SEEDS)) == expected


@pytest.mark.parametrize("sampling", [GREEDY, PAPER, WARM], ids=["greedy", "paper", "warm"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_log_probabilities_of_the_first_token_are_the_models_own(engine, sampling, batch_size):
    """Whatever temperature, penalties and top-p do to the drawing, which they leave as it was."""
    engine.batch_size = batch_size
    likely = sampling.model_copy(update={"top_logprobs": 7})
    answers = dict(engine.generate(PROMPTS, likely, 2, SEEDS))
    assert plain(answers.items()) == plain(engine.generate(PROMPTS, sampling, 2, SEEDS))
    for i, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            logits = engine.model(torch.tensor([ids_of(engine.tokenizer, prompt)])).logits[0, -1]
        shares = (logits.double().exp() / logits.double().exp().sum()).tolist()
        expected = Counter()
        for token in sorted(range(len(shares)), key=shares.__getitem__, reverse=True)[:7]:
            expected[engine.tokenizer.decode([token])] += shares[token]
        for generation in answers[i].generations:
            assert list(generation.first) == list(expected)
            assert {text: math.exp(p) for text, p in generation.first.items()} == pytest.approx(expected, rel=1e-4)


def test_log_probabilities_are_kept_only_where_they_are_wanted(engine):
    answers = dict(engine.generate(PROMPTS, PAPER, 2, SEEDS))
    assert {generation.first for answer in answers.values() for generation in answer.generations} == {None}


@pytest.mark.parametrize("penalty", [0.5, -0.5])
def test_the_frequency_penalty_counts_every_time_a_token_was_written(engine, penalty):
    sampling = WARM.model_copy(
        update={"presence_penalty": 0, "frequency_penalty": penalty, "top_p": 0.3, "max_tokens": 80}
    )
    once = sampling.model_copy(update={"presence_penalty": penalty, "frequency_penalty": 0})
    expected, others = (
        [
            [by_hand(engine.model, engine.tokenizer, ids_of(engine.tokenizer, prompt), s, seed)]
            for prompt, seed in zip(PROMPTS[:2], SEEDS[:2], strict=True)
        ]
        for s in (sampling, once)
    )
    assert plain(engine.generate(PROMPTS[:2], sampling, 1, SEEDS[:2])) == expected
    assert expected != others


LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}


@pytest.mark.parametrize(("kind", "layers"), [(MistralConfig, {}), (Gemma3TextConfig, LAYERS)], ids=["all", "some"])
def test_models_with_a_sliding_window_answer_as_they_would_one_by_one(tiny_llama, bare_tokenizer, kind, layers):
    llama = tiny_llama().config.to_dict()
    shared = {
        key: llama[key] for key in llama if key.startswith("num_") or key.endswith(("_size", "_id", "_embeddings"))
    }
    config = kind(**shared, **layers, **SPREAD, head_dim=8, sliding_window=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    expected = [
        [by_hand(model, bare_tokenizer, ids_of(bare_tokenizer, prompt), WARM, seed * 2 + n) for n in range(2)]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert plain(TransformersEngine(model, bare_tokenizer).generate(PROMPTS, WARM, 2, SEEDS)) == expected


def test_answers_do_not_depend_on_the_order_of_the_prompts_or_on_the_others(engine):
    answers = plain(engine.generate(PROMPTS, PAPER, 2, SEEDS))
    order = random.Random(0).sample(range(5), 5)
    shuffled = plain(engine.generate([PROMPTS[i] for i in order], PAPER, 2, [SEEDS[i] for i in order]))
    assert [answers[i] for i in order] == shuffled
    assert plain(engine.generate(PROMPTS[2:3], PAPER, 2, SEEDS[2:3])) == answers[2:3]


def test_a_seed_repeats_its_answers_and_the_samples_of_a_prompt_differ(engine):
    (first,), (again,), (other,) = (plain(engine.generate(PROMPTS[:1], PAPER, 8, [s])) for s in (1, 1, 2))
    assert first == again
    assert len(set(first)) == 8
    assert set(first).isdisjoint(other)


def test_torchs_own_random_state_is_neither_used_nor_moved(engine):
    torch.manual_seed(0)
    one = plain(engine.generate(PROMPTS[:1], PAPER, 2, [1]))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert plain(engine.generate(PROMPTS[:1], PAPER, 2, [1])) == one
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_answer_ends_at_each_of_the_models_end_tokens_and_only_there(engine):
    """Take a token from the middle of each greedy answer as an end token: both are cut before it, the third is not."""
    long = [by_hand(engine.model, engine.tokenizer, ids_of(engine.tokenizer, p), GREEDY, ends=()) for p in PROMPTS]
    outs = [engine.tokenizer(text, add_special_tokens=False)["input_ids"] for text, _, _ in long]
    ends = {outs[0][4], outs[3][7]}
    engine.model.generation_config.eos_token_id = sorted(ends)
    expected = [
        [by_hand(engine.model, engine.tokenizer, ids_of(engine.tokenizer, p), GREEDY, ends={*ends, 2})] for p in PROMPTS
    ]
    found = plain(engine.generate(PROMPTS, GREEDY, 1, SEEDS))
    assert found == expected
    assert {reason for ((_, reason, _),) in found} == {"stop", "length"}
    assert found[0][0][1] == "stop" and found[0][0][2] <= 5  # the end token counts


def test_the_tokenizers_end_token_ends_an_answer_whatever_the_model_says(tiny_llama, bare_tokenizer):
    model = tiny_llama(**SPREAD)
    greedy = by_hand(model, bare_tokenizer, ids_of(bare_tokenizer, PROMPTS[0]), GREEDY)
    token = bare_tokenizer(greedy[0], add_special_tokens=False)["input_ids"][3]
    bare_tokenizer.eos_token = bare_tokenizer.convert_ids_to_tokens(token)
    (((text, reason, tokens),),) = plain(
        TransformersEngine(model, bare_tokenizer).generate(PROMPTS[:1], GREEDY, 1, [0])
    )
    assert reason == "stop"
    assert tokens <= 4
    assert greedy[0].startswith(text)


def test_a_tokenizer_that_pads_with_its_end_token_works_too(engine):
    expected = plain(engine.generate(PROMPTS, PAPER, 2, SEEDS))
    engine.tokenizer.pad_token = engine.tokenizer.eos_token
    assert plain(engine.generate(PROMPTS, PAPER, 2, SEEDS)) == expected


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_max_tokens_is_a_limit_on_the_answer(engine, max_tokens):
    sampling = GREEDY.model_copy(update={"max_tokens": max_tokens})
    longer = plain(engine.generate(PROMPTS, GREEDY, 1, SEEDS))
    for ((text, *rest),), ((long, *_),) in zip(
        plain(engine.generate(PROMPTS, sampling, 1, SEEDS)), longer, strict=True
    ):
        assert rest == ["length", max_tokens]
        assert long.startswith(text.rstrip("\ufffd"))


PIECES = ["in", "b", "o", " cap", "ort", " wind", "é", "(", "9"]  # a token each, but for "é", which is two


@pytest.fixture
def writer(tiny_llama, bare_tokenizer):
    """An engine that answers "Add 12 and 30." with PIECES, the last again and again: each token calls for the next."""
    size = len(bare_tokenizer)
    model = tiny_llama(hidden_size=size, num_hidden_layers=1)
    script = [token for piece in PIECES for token in bare_tokenizer(piece)["input_ids"]]
    assert len(set(script)) == len(script) == len(PIECES) + 1
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for token, following in itertools.pairwise([*bare_tokenizer(".")["input_ids"], *script, script[-1]]):
            model.lm_head.weight[following, token] = 1
    return TransformersEngine(model, bare_tokenizer)


def written(writer, *stop, max_tokens=12):
    """What `writer` answers, which is what it would by hand."""
    sampling = GREEDY.model_copy(update={"stop": stop, "max_tokens": max_tokens})
    ((found,),) = plain(writer.generate([PROMPTS[3]], sampling, 1, [0]))
    assert found == by_hand(writer.model, writer.tokenizer, ids_of(writer.tokenizer, PROMPTS[3]), sampling)
    return found


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ([" cap"], "inbo", 4),
        ([" wind", " cap"], "inbo", 4),
        (["not there", " cap", "\n"], "inbo", 4),
        (["nbo"], "i", 3),  # begins within a token and takes three
        (["o ca"], "inb", 4),  # ends within a token, the rest of which is no part of the answer either
        (["é"], "inbo caport wind", 8),
        (["n", "inb"], "i", 1),  # the one that is there first, not the one that begins first
        (["ap", " c"], "inbo", 4),  # one token completes both
    ],
)
def test_an_answer_ends_before_its_stop_text(writer, stop, text, tokens):
    assert written(writer) == ("inbo caport windé(999", "length", 12)
    assert written(writer, *stop) == (text, "stop", tokens)


def test_a_stop_text_that_the_last_token_allowed_completes_is_the_reason(writer):
    assert written(writer, max_tokens=4) == ("inbo cap", "length", 4)
    assert written(writer, " c", max_tokens=4) == ("inbo", "stop", 4)


@pytest.mark.parametrize("stop", ["Add", "30", ".", ".in", "0.inbo"])
def test_a_stop_text_that_the_prompt_holds_or_begins_does_not_end_the_answer(writer, stop):
    assert stop in TEXTS[3] + "inbo"
    assert written(writer, stop) == written(writer)


def test_special_tokens_are_no_part_of_the_text_that_is_searched(writer):
    writer.tokenizer.add_special_tokens({"additional_special_tokens": ["ort"]})
    assert written(writer, "ort") == written(writer) == ("inbo cap windé(999", "length", 12)
    assert written(writer, "p w") == ("inbo ca", "stop", 6)
    assert written(writer, "bo cap windé(", "p w") == ("inbo ca", "stop", 6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_stop_texts_end_answers_as_one_by_one(engine, batch_size):
    """Stop texts from anywhere in the answers: parts of tokens, parts of several, characters of several bytes."""
    engine.batch_size = batch_size
    free, rng = WARM.model_copy(update={"max_tokens": 20}), random.Random(0)
    ids = [ids_of(engine.tokenizer, prompt) for prompt in PROMPTS]
    whole = "".join(by_hand(engine.model, engine.tokenizer, i, free, s)[0] for i, s in zip(ids, SEEDS, strict=True))
    pieces = [whole[start : start + length] for start in range(len(whole)) for length in (1, 2, 3, 4, 7)]
    pieces = [piece for piece in pieces if "\ufffd" not in piece]  # half a character is not yet a text
    assert any(not piece.isascii() for piece in pieces)
    reasons = Counter()
    for _ in range(10):
        sampling = free.model_copy(update={"stop": tuple(rng.sample(pieces, 3))})
        expected = [
            [by_hand(engine.model, engine.tokenizer, i, sampling, seed)] for i, seed in zip(ids, SEEDS, strict=True)
        ]
        assert plain(engine.generate(PROMPTS, sampling, 1, SEEDS)) == expected
        reasons.update(reason for samples in expected for _, reason, _ in samples)
    assert min(reasons["stop"], reasons["length"]) > 10


@pytest.fixture
def batches(engine):
    """The shapes of the batches of prompts that the engine's model has read, as they come."""
    seen = []

    def see(_module, _args, given):
        if given["input_ids"].shape[1] > 1:  # else it writes
            seen.append(tuple(given["input_ids"].shape))

    engine.model.register_forward_pre_hook(see, with_kwargs=True)
    return seen


@pytest.mark.parametrize("done", [{3}, {0, 2}, {1, 3, 4}, {0, 1, 2, 3, 4}])
def test_what_is_done_is_not_answered_again_and_the_others_are_as_if_it_were(engine, batches, done):
    """In batches of two: prompts 1 and 3, 0 and 4, 2."""
    engine.batch_size = 2
    whole = dict(engine.generate(PROMPTS, PAPER, 2, SEEDS))
    whole_batches = batches.copy()
    batches.clear()
    assert dict(engine.generate(PROMPTS, PAPER, 2, SEEDS, done=done)) == {i: whole[i] for i in whole if i not in done}
    members = [{1, 3}, {0, 4}, {2}]
    assert batches == [shape for shape, of in zip(whole_batches, members, strict=True) if not of <= done]


def test_when_no_more_may_be_asked_what_came_is_kept_and_the_rest_is_not_read(engine, batches):
    engine.batch_size, events = 2, []
    whole = dict(engine.generate(PROMPTS, PAPER, 2, SEEDS))
    batches.clear()

    def may_start(under_way):
        events.append(("may ask", under_way))
        return len(batches) < 2

    came = {}
    for i, answer in engine.generate(PROMPTS, PAPER, 2, SEEDS, may_start=may_start):
        events.append(i)
        came[i] = answer
    assert came == {i: whole[i] for i in (1, 3, 0, 4)}
    assert len(batches) == 2
    assert events == [("may ask", 1), 1, 3, ("may ask", 1), 0, 4, ("may ask", 0)]
    assert list(engine.generate(PROMPTS, PAPER, 2, SEEDS, may_start=lambda _: False)) == []


def test_what_is_done_is_not_under_way(engine):
    asked = []
    list(engine.generate(PROMPTS, GREEDY, 1, SEEDS, done={0, 3}, may_start=lambda n: asked.append(n) or True))
    assert asked == [2]


def test_the_tokens_of_a_prompt_are_those_of_the_whole_chat(tiny_llama, tiny_tokenizer):
    engine = TransformersEngine(tiny_llama(), tiny_tokenizer, batch_size=2)
    answers = dict(engine.generate(PROMPTS, GREEDY, 3, SEEDS))
    lengths = [len(prompt_ids(tiny_tokenizer, [p])[0]) for p in PROMPTS]
    assert [answers[i].prompt_tokens for i in range(5)] == lengths
    assert lengths[1] > len("<|user|>")
    assert all(answer.tokens == sum(g.tokens for g in answer.generations) > 0 for answer in answers.values())


def test_a_context_smaller_than_the_models_cuts_prompts(engine):
    lengths = [len(ids_of(engine.tokenizer, prompt)) for prompt in PROMPTS]
    room = lengths[4]  # just enough for it
    small = TransformersEngine(engine.model, engine.tokenizer, context=room + GREEDY.max_tokens)
    answers = dict(small.generate(PROMPTS, GREEDY, 1, SEEDS))
    assert [answers[i].cut for i in range(5)] == [False, False, True, False, False]
    assert [answers[i].prompt_tokens for i in range(5)] == [min(room, length) for length in lengths]
    expected = [[by_hand(engine.model, engine.tokenizer, ids_of(engine.tokenizer, p)[-room:], GREEDY)] for p in PROMPTS]
    assert plain(answers.items()) == expected
    assert not any(answer.cut for _, answer in engine.generate(PROMPTS, GREEDY, 1, SEEDS))


def test_a_context_larger_than_the_models_does_not_stretch_it(tiny_llama, bare_tokenizer):
    model = tiny_llama(max_position_embeddings=32)
    ((_, answer),) = TransformersEngine(model, bare_tokenizer, context=500).generate([PROMPTS[2]], GREEDY, 1, [0])
    assert (answer.prompt_tokens, answer.cut) == (20, True)


@pytest.mark.parametrize("context", [32, 13])
def test_a_prompt_too_long_for_the_context_is_cut_at_its_start(tiny_llama, bare_tokenizer, context):
    model = tiny_llama(**SPREAD, max_position_embeddings=context)
    ids = ids_of(bare_tokenizer, PROMPTS[2])
    room = context - GREEDY.max_tokens
    assert len(ids) > room
    ((answer,),) = plain(TransformersEngine(model, bare_tokenizer).generate([PROMPTS[2]], GREEDY, 1, [0]))
    assert answer == by_hand(model, bare_tokenizer, ids[-room:], GREEDY)
    assert answer != by_hand(model, bare_tokenizer, ids[:room], GREEDY)


def test_an_answer_as_long_as_the_context_is_wrong_input(tiny_llama, bare_tokenizer):
    engine = TransformersEngine(tiny_llama(max_position_embeddings=12), bare_tokenizer)
    with pytest.raises(InputError, match=r"sampling.max_tokens = 12: leaves no room for a prompt .* of 12 tokens"):
        list(engine.generate(PROMPTS, GREEDY, 1, SEEDS))


def test_the_models_own_generation_settings_change_nothing(engine):
    expected = plain(engine.generate(PROMPTS, WARM, 2, SEEDS)), plain(engine.generate(PROMPTS, GREEDY, 1, SEEDS))
    settings = engine.model.generation_config
    settings.do_sample, settings.temperature, settings.top_k, settings.top_p = True, 0.1, 1, 0.1
    settings.repetition_penalty, settings.no_repeat_ngram_size, settings.max_length = 2.0, 1, 16
    assert plain(engine.generate(PROMPTS, WARM, 2, SEEDS)) == expected[0]
    assert plain(engine.generate(PROMPTS, GREEDY, 1, SEEDS)) == expected[1]


def penalised(sampling, input_ids, scores, prompt_length, padding):
    """`scores` after the penalties, without the drawing."""
    greedy = sampling.model_copy(update={"temperature": 0})
    return _processors(greedy, prompt_length, torch.tensor(padding), [0] * len(padding))(input_ids, scores.clone())


def test_penalties_equal_a_computation_by_hand():
    # Two rows of five tokens: padding 0, prompts [1, 1] and [2], then the two generated tokens [3, 1] and [3, 3].
    input_ids = torch.tensor([[0, 1, 1, 3, 1], [0, 0, 2, 3, 3]])
    scores = torch.tensor([[2.0, 4.0, -1.0, -3.0, 0.5], [2.0, 4.0, -1.0, 6.0, 0.5]])
    sampling = Sampling(presence_penalty=1.0, repetition_penalty=1.5)
    expected = [
        [2.0, 4.0 / 1.5 - 1, -1.0, -3.0 * 1.5 - 1, 0.5],  # padding is not repeated; prompt tokens are, once
        [2.0, 4.0, -1.0 * 1.5, 6.0 / 1.5 - 1, 0.5],  # presence counts once however often, and not the prompt
    ]
    torch.testing.assert_close(penalised(sampling, input_ids, scores, 3, [1, 2]), torch.tensor(expected))
    often = sampling.model_copy(update={"frequency_penalty": 0.25})
    expected[0][1] -= 0.25
    expected[0][3] -= 0.25
    expected[1][3] -= 0.5  # frequency counts each time, and not the prompt
    torch.testing.assert_close(penalised(often, input_ids, scores, 3, [1, 2]), torch.tensor(expected))


def test_the_repetition_penalty_is_transformers_own_without_the_padding():
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(3, 50, (4, 20), generator=generator)
    scores = torch.randn(4, 50, generator=generator)
    padding = [0, 5, 10, 12]
    for row, count in enumerate(padding):
        input_ids[row, :count] = 0
    sampling = Sampling(presence_penalty=0, repetition_penalty=1.3)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)
    expected = [
        theirs(input_ids[row : row + 1, count:], scores[row : row + 1].clone()) for row, count in enumerate(padding)
    ]
    torch.testing.assert_close(penalised(sampling, input_ids, scores, 14, padding), torch.cat(expected))


def chi_square(counts, shares):
    """Pearson's statistic of `counts` against expected `shares` of their sum."""
    n = sum(counts)
    return sum((count - n * share) ** 2 / (n * share) for count, share in zip(counts, shares, strict=True))


def quantile(freedom):
    """The 0.999 quantile of chi-square (Wilson and Hilferty 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.0902 * math.sqrt(2 / (9 * freedom))) ** 3


LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.0, -0.5, -1.0, -2.0, -math.inf])
SHARES = LOGITS.softmax(-1)[:-1].tolist()


def drawn(draw, rows):
    scores = LOGITS.expand(rows, -1)
    return draw(torch.zeros(rows, 1, dtype=torch.long), scores).argmax(-1).tolist()


def test_the_draws_of_one_generator_follow_the_softmax_and_each_other_independently():
    draw = _GumbelSampler([7])
    tokens = [drawn(draw, 1)[0] for _ in range(20_000)]
    check(tokens)


def test_the_first_draws_of_consecutive_seeds_follow_the_softmax_and_are_independent():
    check(drawn(_GumbelSampler(list(range(20_000))), 20_000))


def check(tokens):
    counts = Counter(tokens)
    assert counts[7] == 0
    assert chi_square([counts[t] for t in range(7)], SHARES) < quantile(6)
    pairs = Counter(itertools.pairwise(tokens))
    joint = list(itertools.product(range(5), repeat=2))  # the rarest would have too few pairs to test
    seen = sum(pairs[pair] for pair in joint)
    mass = sum(SHARES[:5]) ** 2
    expected = [SHARES[a] * SHARES[b] / mass for a, b in joint]
    assert chi_square([pairs[pair] for pair in joint], expected) < quantile(24)
    assert seen > 15_000


def test_first_tokens_of_a_model_follow_its_own_distribution(engine):
    sampling = Sampling(temperature=0.7, top_p=0.8, presence_penalty=0, repetition_penalty=1, max_tokens=1)
    ids = ids_of(engine.tokenizer, PROMPTS[0])
    with torch.no_grad():
        logits = engine.model(torch.tensor([ids])).logits[0, -1]
    shares = torch.tensor(nucleus((logits / 0.7).tolist(), 0.8)).softmax(-1)
    likely = [t for t in range(len(shares)) if shares[t] > 0]
    texts: dict[str, float] = Counter()  # parts of a character share the text that marks them as broken
    for token in likely:
        texts[engine.tokenizer.decode([token], skip_special_tokens=True)] += shares[token].item()
    (answers,) = plain(engine.generate(PROMPTS[:1], sampling, 4000, [5]))
    counts = Counter(text for text, _, _ in answers)
    assert counts.keys() <= texts.keys()
    assert len(texts) > 3
    assert chi_square([counts[text] for text in texts], texts.values()) < quantile(len(texts) - 1)
