"""Peak memory against its formula, and the token budget that is chosen by it."""

import gc

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from montessori.data.chat import Example
from montessori.errors import InputError
from montessori.influence import Directional, Exact, OptimizerState, Taylor, make_batches, reference_gradient
from montessori.influence.memory import (
    MARGIN,
    Activations,
    Memory,
    MemoryTracker,
    available_bytes,
    estimate_memory,
    fit_token_budget,
)
from montessori.models import loading

TOKEN_BUDGET = 512
WORKS = ["taylor", "directional", "exact", "gradient"]


def config(**changes):
    shape = {
        "vocab_size": 1500,
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": None,
    }
    return LlamaConfig(**(shape | changes))


def student(lora=False, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(**changes)).to(dtype)
    if lora:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    return model.eval()


def fresh_state(model, dtype=torch.float32):
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    m, v = (
        {n: torch.full_like(p, 1e-4, dtype=dtype, requires_grad=False) for n, p in parameters.items()} for _ in "mv"
    )
    return OptimizerState(m, v, step=10, learning_rate=1e-4)


def examples(lengths, prompt):
    return [Example(str(i), [1 + (i + k) % 100 for k in range(n)], prompt) for i, n in enumerate(lengths)]


POINTS = examples([60, 62, *[64] * 14], prompt=32)
REFERENCE = examples([64] * 8, prompt=20)


def measured(model, work, state_dtype=torch.float32, token_budget=TOKEN_BUDGET):
    """The largest sum of live tensors while `work` is done, weights and state included."""
    state = fresh_state(model, torch.float32 if work == "gradient" else state_dtype)
    gradient = {}
    if work in ("taylor", "directional"):
        gradient = {n: torch.full_like(m, 1e-3, dtype=state_dtype) for n, m in state.exp_avg.items()}
    gc.collect()
    with MemoryTracker() as tracker:
        tracker.watch([*model.parameters(), *model.buffers(), *gradient.values()])
        tracker.watch([*state.exp_avg.values(), *state.exp_avg_sq.values()])
        if work == "gradient":
            found, _ = reference_gradient(model, REFERENCE, token_budget)
            assert Taylor(model, state, found).momentum_influence is not None
            return tracker.peak
        if work == "exact":
            estimator = Exact(model, state, REFERENCE, token_budget, narrow_weights=True)
        else:
            directional = work == "directional"
            estimator = (
                Directional(model, state, gradient, REFERENCE) if directional else Taylor(model, state, gradient)
            )
            if directional:
                gradient.clear()  # as when the function that built the estimator returns
        for batch in make_batches(POINTS[-1:] if work == "exact" else POINTS, token_budget):
            estimator.score(batch)
        assert estimator.momentum_influence is not None
    return tracker.peak


@pytest.fixture
def skeleton_of(tmp_path):
    """A model's skeleton as a stage gets it: from its folder."""

    def make(model, dtype="float32"):
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(tokenizer_models.WordLevel({"a": 0, "</s>": 1}, "a")), eos_token="</s>"
        )
        loading.save_unmerged(model, tokenizer, tmp_path / "model")
        return loading.skeleton(tmp_path / "model", dtype)

    return make


@pytest.mark.parametrize(
    ("dtype", "lora"),
    [("float32", False), ("bfloat16", False), ("bfloat16", True)],
    ids=["float32", "bfloat16", "lora"],
)
@pytest.mark.parametrize("work", WORKS)
def test_measured_peak_is_within_a_fifth_of_the_formula(skeleton_of, work, dtype, lora):
    skeleton = skeleton_of(student(lora), dtype)
    formula = estimate_memory(skeleton, work).peak(POINTS, REFERENCE, TOKEN_BUDGET)
    assert 1 / 1.2 <= measured(student(lora, getattr(torch, dtype)), work) / formula <= 1.2


@pytest.mark.parametrize("work", ["taylor", "directional", "exact"])
def test_formula_holds_for_narrow_moments(skeleton_of, work):
    skeleton = skeleton_of(student())
    narrow = estimate_memory(skeleton, work, torch.bfloat16).peak(POINTS, REFERENCE, TOKEN_BUDGET)
    assert narrow < estimate_memory(skeleton, work).peak(POINTS, REFERENCE, TOKEN_BUDGET)
    assert 1 / 1.2 <= measured(student(), work, torch.bfloat16) / narrow <= 1.2


def test_formula_holds_where_embedding_and_head_are_one_tensor(skeleton_of):
    tied = {"tie_word_embeddings": True}
    formula = estimate_memory(skeleton_of(student(**tied)), "taylor").peak(POINTS, REFERENCE, TOKEN_BUDGET)
    assert 1 / 1.2 <= measured(student(**tied), "taylor") / formula <= 1.2


def test_skeleton_says_what_the_loaded_model_would(skeleton_of):
    model = student(num_key_value_heads=4)
    skeleton = skeleton_of(model)
    assert {n: p.shape for n, p in skeleton.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    for work in ("taylor", "directional"):
        foreseen, real = (estimate_memory(m, work).peak(POINTS, REFERENCE, TOKEN_BUDGET) for m in (skeleton, model))
        assert foreseen == pytest.approx(real, rel=0.05)


def test_nothing_is_allocated_for_a_large_student():
    shape = config(vocab_size=128256, hidden_size=4096, intermediate_size=14336)
    with torch.device("meta"):
        model = LlamaForCausalLM(shape).eval()
    memory = estimate_memory(loading.without_storage(model), "taylor")
    assert memory.resident > 20e9  # 16 bytes a parameter


def test_peak_grows_linearly_with_tokens(skeleton_of):
    memory = estimate_memory(skeleton_of(student()), "taylor")
    peaks = [measured(student(), "taylor", token_budget=n) for n in (256, 512, 768)]
    formulas = [memory.peak(POINTS, REFERENCE, n) for n in (256, 512, 768)]
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=0.1)
    assert formulas[2] - formulas[1] == pytest.approx(peaks[2] - peaks[1], rel=0.2)


MEMORY = Memory(
    "taylor", resident=1000, temporary=100, points=Activations(2.0, 1.0, backward=True, gradient=10), reference=None
)


def test_wanted_budget_stands_where_it_fits():
    assert fit_token_budget(MEMORY, POINTS, [], wanted=TOKEN_BUDGET, available=10_000) == TOKEN_BUDGET


def test_budget_is_lowered_until_the_worst_batch_fits():
    available = 1000 + 10 + 2 * 2 * 64 + 2 * 32  # two of the longest points
    budget = fit_token_budget(MEMORY, POINTS, [], wanted=TOKEN_BUDGET, available=available)
    assert 128 <= budget < 192
    assert MEMORY.peak(POINTS, [], budget) <= available < MEMORY.peak(POINTS, [], TOKEN_BUDGET)


def test_a_lowered_budget_splits_planned_batches_and_loses_no_point():
    batches = make_batches(POINTS, TOKEN_BUDGET)
    parts = [part for batch in batches for part in make_batches(batch, 128)]
    assert max(len(part) for part in parts) == 2
    assert [e.id for part in parts for e in part] == [e.id for batch in batches for e in batch]
    assert [part for batch in batches for part in make_batches(batch, TOKEN_BUDGET)] == batches


def test_too_little_for_one_point_says_how_much_is_needed_and_what_to_lower():
    with pytest.raises(InputError, match=r"taylor needs 1\.17e-06 GB .* 64 tokens.* 1e-06 GB is free: hold the state"):
        fit_token_budget(MEMORY, POINTS, [], wanted=TOKEN_BUDGET, available=1000)


def test_a_container_limit_bounds_what_is_free(tmp_path):
    group = tmp_path / "sys/fs/cgroup/job"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    for name, text in {"max": "5000000", "current": "3000000", "stat": "anon 1\ninactive_file 1000000\n"}.items():
        (group / f"memory.{name}").write_text(text)
    assert available_bytes(torch.device("cpu"), tmp_path) == int(MARGIN * 3_000_000)
    (group / "memory.max").write_text("max\n")
    assert available_bytes(torch.device("cpu"), tmp_path) > 3_000_000


def test_activations_that_cannot_be_foreseen_leave_the_fixed_part(caplog):
    class Unforeseen(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            raise RuntimeError("no shape rule")

    memory = estimate_memory(Unforeseen(config()).eval(), "taylor")
    assert memory.resident > 0 and memory.points is not None and memory.points.per_token == 0
    assert "cannot be foreseen" in caplog.text
