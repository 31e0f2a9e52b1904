"""Agreement with float64, the float64 that it is measured against, and what narrow moments and fused kernels change."""

import copy
import shutil
import statistics
from dataclasses import replace

import pytest
import torch
from scipy import stats
from warm_student import in_float64 as norms_swapped
from warm_student import plain_loss, random_examples, tiny_student, truth, warm_up

from montessori.correlation import spearman
from montessori.influence import (
    Directional,
    Exact,
    GradientDescent,
    Taylor,
    example_loss,
    reference_gradient,
)
from montessori.influence.adamw import _product, fused_product
from montessori.influence.fidelity import agreement, in_float64


def test_agreement_counts_signs_and_pairs_by_hand():
    truths = [1.0, -1.0, 2.0, -2.0, 5.0, 6.0, 7.0, 9.0]
    estimates = [1.0, 0.5, 2.0, -2.0, 5.0, 7.0, 6.0, 9.0]
    found = agreement(estimates, truths, momentum_estimate=0.6, momentum_truth=0.5)
    assert found.points == 8
    assert found.sign_zero == 7 / 8  # the second changes side
    assert found.sign_momentum == 1.0
    # Fours: the means are 0 and 0.375, then 6.75 and 6.75; 7.0 and 6.0 change places
    assert found.sign_prompt_mean == 5 / 8
    # true pairs: {1, 2} × {-1, -2}, {7, 9} × {5, 6}; found: {1, .5, 2} × {-2}, {7, 9} × {5, 6}, the 7 another point
    assert found.pairs == pytest.approx((2 + 1) / 8)


def test_a_point_without_a_finite_influence_is_left_out():
    found = agreement([1.0, float("nan"), 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], momentum_estimate=0.0, momentum_truth=0.0)
    assert (found.points, found.spearman) == (3, 1.0)


def test_spearman_is_that_of_scipy_with_ties():
    a, b = [1.0, 2.0, 2.0, 5.0, 3.0], [2.0, 1.0, 4.0, 4.0, 4.0]
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_inside_in_float64_nothing_passes_through_float32():
    model, example = tiny_student(), random_examples(1, seed=3)[0]
    expected = plain_loss(norms_swapped(model), example).item()
    assert example_loss(copy.deepcopy(model).double(), example).item() != pytest.approx(expected, rel=1e-10)
    with in_float64(copy.deepcopy(model)) as wide:
        assert example_loss(wide, example).item() == pytest.approx(expected, rel=5e-12)


def test_exact_in_float64_is_the_step_of_torch_adamw():
    model = tiny_student()
    state, reference, points = warm_up(model, 0.1), random_examples(4, seed=1), random_examples(4, seed=2)
    expected = [truth(model, state, reference, point).exact for point in points]
    with in_float64(copy.deepcopy(model)) as wide:
        found = [s.influence for s in Exact(wide, state.to(torch.float64), reference).score(points)]
    assert found == pytest.approx(expected, rel=1e-8)


def test_bfloat16_moments_keep_the_ranking_of_taylor():
    model = tiny_student()
    state, points = warm_up(model), random_examples(40, seed=2)
    gradient, _ = reference_gradient(model, random_examples(8, seed=1))
    wide = [s.influence for s in Taylor(model, state, gradient).score(points)]
    narrow_gradient = {n: g.bfloat16() for n, g in gradient.items()}
    narrow = [s.influence for s in Taylor(model, state.to(torch.bfloat16), narrow_gradient).score(points)]
    assert narrow != wide
    assert spearman(narrow, wide) > 0.995


def test_plain_gradient_descent_is_the_dot_product_of_gradients():
    model = tiny_student()
    reference, points = random_examples(4, seed=1), random_examples(6, seed=2)
    step = GradientDescent(learning_rate=1e-2)
    gradient, loss = reference_gradient(model, reference)
    expected = []
    for point in points:
        g = torch.autograd.grad(plain_loss(model, point), list(model.parameters()))
        expected.append(1e-2 * sum(float((a * b).sum()) for a, b in zip(g, gradient.values(), strict=True)))
    spread = statistics.stdev(expected)
    taylor, directional = Taylor(model, step, gradient), Directional(model, step, gradient, reference)
    assert [s.influence for s in taylor.score(points)] == pytest.approx(expected, rel=1e-4, abs=1e-4 * spread)
    assert [s.influence for s in directional.score(points)] == pytest.approx(expected, rel=1e-2, abs=1e-2 * spread)
    assert taylor.momentum_influence == directional.momentum_influence == 0
    (exact,) = Exact(model, replace(step, learning_rate=1e-4), reference).score(points[:1])
    stepped = copy.deepcopy(model)
    torch.optim.SGD(stepped.parameters(), lr=1e-4)
    plain_loss(stepped, points[0]).backward()
    with torch.no_grad():
        for p in stepped.parameters():
            p -= 1e-4 * p.grad
    after = sum(plain_loss(stepped, r).item() for r in reference) / len(reference)
    assert exact.influence == pytest.approx(loss - after, abs=2e-6)


def test_a_state_in_float64_has_the_directional_derivative_of_float64():
    model = tiny_student()
    state, points, reference = warm_up(model), random_examples(10, seed=2), random_examples(4, seed=1)
    gradient, _ = reference_gradient(model, reference)
    narrow = [s.influence for s in Directional(model, state, gradient, reference).score(points)]
    with in_float64(copy.deepcopy(model)) as wide:
        state64, gradient64 = state.to(torch.float64), {n: g.double() for n, g in gradient.items()}
        exact = [s.influence for s in Directional(wide, state64, gradient64, reference).score(points)]
    assert narrow == pytest.approx(exact, abs=5e-3 * statistics.stdev(exact))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_the_fused_kernel_is_the_same_product():
    torch.manual_seed(0)
    g, m, v, r = torch.randn(4, 5000)
    constants = (0.1, 1e-3, 1e-8)
    expected = _product(g.double(), m.double(), v.double().abs(), r.double(), constants).item()
    assert fused_product()(g, m, v.abs(), r, *constants).item() == pytest.approx(expected, rel=1e-4)
