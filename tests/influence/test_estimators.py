"""taylor and exact against influence computed independently in float64 with `torch.optim.AdamW`."""

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from warm_student import (
    POISON_TOKEN,
    Truth,
    in_float64,
    plain_loss,
    random_examples,
    spearman,
    tiny_lora_student,
    tiny_student,
    truth,
    warm_up,
)

from montessori.data.chat import Example
from montessori.errors import InputError, StageError
from montessori.influence import Directional, Exact, OptimizerState, Score, Taylor, exact, reference_gradient

Estimate = Callable[[list[Example]], list[Score]]


@dataclass
class Student:
    model: nn.Module
    state: OptimizerState
    reference: list[Example]
    points: list[Example]
    truths: list[Truth]

    def taylor(self, points: list[Example]) -> list[Score]:
        gradient, _ = reference_gradient(self.model, self.reference)
        return Taylor(self.model, self.state, gradient).score(points)

    def directional(self, points: list[Example]) -> list[Score]:
        gradient, _ = reference_gradient(self.model, self.reference)
        return Directional(self.model, self.state, gradient, self.reference).score(points)

    def exact(self, points: list[Example]) -> list[Score]:
        return Exact(self.model, self.state, self.reference).score(points)

    def estimators(self) -> list[Estimate]:
        return [self.taylor, self.directional, self.exact]


def make_student(model: nn.Module, weight_decay: float) -> Student:
    torch.set_num_threads(1)
    state = warm_up(model, weight_decay)
    reference, points = random_examples(8, seed=1), random_examples(20, seed=2)
    return Student(model, state, reference, points, [truth(model, state, reference, x) for x in points])


@pytest.fixture(scope="module")
def student() -> Student:
    return make_student(tiny_student(), weight_decay=0.0)


@pytest.fixture(scope="module")
def lora_student() -> Student:
    return make_student(tiny_lora_student(), weight_decay=0.1)


@pytest.fixture(scope="module", params=["full", "weight decay", "lora"])
def any_student(request: pytest.FixtureRequest) -> Student:
    if request.param == "weight decay":
        return make_student(tiny_student(), weight_decay=0.1)
    return request.getfixturevalue("student" if request.param == "full" else "lora_student")


def influences(scores: list[Score]) -> list[float]:
    assert {s.status for s in scores} == {"ok"}
    return [s.influence for s in scores]


def snapshot(student: Student) -> list[torch.Tensor]:
    moments = [*student.state.exp_avg.values(), *student.state.exp_avg_sq.values()]
    gradients = [p.grad for p in student.model.parameters() if p.grad is not None]
    return [t.detach().clone() for t in [*student.model.state_dict().values(), *gradients, *moments]]


def test_exact_in_float32_equals_the_float64_step_and_loss_difference(any_student: Student):
    expected = [t.exact for t in any_student.truths]
    found = influences(any_student.exact(any_student.points))
    assert spearman(found, expected) > 0.999
    assert found == pytest.approx(expected, rel=0, abs=0.01 * statistics.stdev(expected))


def test_taylor_equals_the_float64_product_of_gradient_and_step(any_student: Student):
    expected = [t.first_order for t in any_student.truths]
    found = influences(any_student.taylor(any_student.points))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5 * statistics.stdev(expected))


def test_taylor_ranks_points_as_exact_does(any_student: Student):
    found = influences(any_student.taylor(any_student.points))
    assert spearman(found, [t.exact for t in any_student.truths]) > 0.99


def test_taylor_still_ranks_with_bfloat16_weights(student: Student):
    narrow = dataclasses.replace(student, model=copy.deepcopy(student.model).bfloat16())
    found = influences(narrow.taylor(student.points))
    assert spearman(found, [t.exact for t in student.truths]) > 0.98


def test_momentum_influence_is_that_of_a_step_with_zero_gradient(any_student: Student):
    s = any_student
    expected = truth(s.model, s.state, s.reference, None)
    gradient, _ = reference_gradient(s.model, s.reference)
    assert Taylor(s.model, s.state, gradient).momentum_influence == pytest.approx(expected.first_order, rel=1e-5)
    assert Directional(s.model, s.state, gradient).momentum_influence == pytest.approx(expected.first_order, rel=1e-5)
    assert Exact(s.model, s.state, s.reference).momentum_influence == pytest.approx(
        expected.exact, abs=0.01 * statistics.stdev(t.exact for t in s.truths)
    )


def test_directional_is_the_step_with_one_second_moment_for_all_points(student: Student):
    model, state, reference = student.model, student.state, student.reference
    gradient, _ = reference_gradient(model, reference)
    wide = in_float64(model)
    parameters = dict(wide.named_parameters())

    def gradients(example: Example) -> dict[str, torch.Tensor]:
        found = torch.autograd.grad(plain_loss(wide, example), list(parameters.values()))
        return dict(zip(parameters, found, strict=True))

    typical = [gradients(example) for example in reference]  # eight, which are all taken
    squares = {name: sum(g[name] ** 2 for g in typical) / len(typical) for name in parameters}
    t, beta1, beta2 = state.step + 1, state.beta1, state.beta2
    expected = []
    for point in student.points:
        influence = 0.0
        for name, g in gradients(point).items():
            v = beta2 * state.exp_avg_sq[name].double() + (1 - beta2) * squares[name]
            m_of_g = (1 - beta1) * g / (1 - beta1**t)
            influence += float((gradient[name] * m_of_g / ((v / (1 - beta2**t)).sqrt() + state.epsilon)).sum())
        expected.append(state.learning_rate * influence)
    scorer = Directional(model, state, gradient, reference)
    found = [score.influence - scorer.momentum_influence for score in scorer.score(student.points)]
    assert found == pytest.approx(expected, abs=0.01 * statistics.stdev(expected))


def test_weights_and_moments_are_the_same_bits_after_many_points(any_student: Student):
    before = snapshot(any_student)
    for estimate in any_student.estimators():
        estimate(any_student.points * 2)
    _ = Exact(any_student.model, any_student.state, any_student.reference).momentum_influence
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(any_student), strict=True))


def test_weights_are_restored_when_the_reference_pass_breaks(student: Student, monkeypatch):
    before = snapshot(student)
    estimator = Exact(student.model, student.state, student.reference)
    estimator.score(student.points[:1])

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(exact, "reference_loss", out_of_memory)
    with pytest.raises(MemoryError):
        estimator.score(student.points[:1])
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(student), strict=True))


def test_a_student_with_dropout_is_scored_without_it():
    model = tiny_student(attention_dropout=0.5)
    student = Student(model, warm_up(model), random_examples(4, seed=1), random_examples(4, seed=2), [])
    for estimate in student.estimators():
        model.train()
        first = estimate(student.points)
        model.train()
        assert estimate(student.points) == first


def test_a_poison_point_gets_a_status_and_spoils_nobody_else(student: Student):
    model = copy.deepcopy(student.model)
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON_TOKEN] = math.nan
    poisoned = dataclasses.replace(student, model=model)
    poison = Example("poison", [1, 2, POISON_TOKEN, 3, 4], prompt_length=2)
    empty = Example("empty", [1, 2, 3], prompt_length=3)
    for estimate in poisoned.estimators():
        clean = estimate(student.points[:4])
        mixed = estimate([poison, *student.points[:2], empty, *student.points[2:4], poison])
        assert [s for s in mixed if s.status == "ok"] == clean
        assert [(s.id, s.status) for s in mixed if s.status != "ok"] == [
            ("poison", "not-finite"),
            ("empty", "no-answer"),
            ("poison", "not-finite"),
        ]
        assert all(math.isnan(s.influence) for s in mixed if s.status != "ok")


def test_a_gradient_that_overflows_is_a_poison_point_too(student: Student):
    model = copy.deepcopy(student.model)

    poisoned_rows: list[torch.Tensor] = []

    def find_poison(_: nn.Module, inputs: tuple[torch.Tensor], __: torch.Tensor) -> None:
        poisoned_rows[:] = [(inputs[0] == POISON_TOKEN).any(1)[:, None, None]]

    def overflow_on_poison(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda gradient: torch.where(poisoned_rows[0], math.inf, gradient))

    model.get_input_embeddings().register_forward_hook(find_poison)
    model.model.layers[1].register_forward_pre_hook(overflow_on_poison)
    poisoned = dataclasses.replace(student, model=model)
    poison = Example("poison", [1, POISON_TOKEN, 3, 4], prompt_length=2)
    for estimate in (poisoned.taylor, poisoned.exact):  # directional takes no gradient
        clean = estimate(student.points[:2])
        mixed = estimate([student.points[0], poison, student.points[1]])
        assert mixed[1].status == "not-finite"
        assert math.isfinite(mixed[1].training_loss)
        assert [mixed[0], mixed[2]] == clean


def test_a_score_tells_the_training_loss_and_the_answer_tokens(student: Student):
    point = student.points[0]
    for estimate in student.estimators():
        (score,) = estimate([point])
        ids = torch.tensor([point.input_ids])
        labels = ids.clone()
        labels[0, : point.prompt_length] = -100
        assert score.training_loss == pytest.approx(student.model(input_ids=ids, labels=labels).loss.item(), rel=1e-6)
        assert score.tokens == len(point.input_ids) - point.prompt_length


def test_exact_refuses_bfloat16_weights_and_says_what_they_cost(student: Student):
    model = copy.deepcopy(student.model).bfloat16()
    with pytest.raises(InputError, match=r"rounding noise.*float32"):
        Exact(model, student.state, student.reference)


def test_exact_refuses_a_bfloat16_base_below_float32_adapters(lora_student: Student):
    model = copy.deepcopy(lora_student.model)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    with pytest.raises(InputError, match=r"embed_tokens\.weight is not"):
        Exact(model, lora_student.state, lora_student.reference)


def test_lora_scores_only_the_adapters(lora_student: Student):
    gradient, _ = reference_gradient(lora_student.model, lora_student.reference)
    assert gradient
    assert all("lora_" in name for name in gradient)
    assert gradient.keys() == lora_student.state.exp_avg.keys()


def test_a_state_or_gradient_of_another_model_is_refused(student: Student, lora_student: Student):
    gradient, _ = reference_gradient(student.model, student.reference)
    with pytest.raises(InputError, match="the optimiser state does not fit"):
        Taylor(student.model, lora_student.state, gradient)
    with pytest.raises(InputError, match="the optimiser state does not fit"):
        Exact(student.model, lora_student.state, student.reference)
    misshapen = gradient | {"lm_head.weight": gradient["lm_head.weight"][1:]}
    with pytest.raises(InputError, match=r"gradient does not fit the model: lm_head\.weight is \[63, 32\]"):
        Taylor(student.model, student.state, misshapen)


def test_a_student_that_diverged_is_reported_with_the_reference_example(student: Student):
    model = copy.deepcopy(student.model)
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(StageError, match="reference example 1-"):
        Exact(model, student.state, student.reference)
    with pytest.raises(StageError, match="reference example 1-"):
        reference_gradient(model, student.reference)
