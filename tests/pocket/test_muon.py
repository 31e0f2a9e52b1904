import torch
from torch import nn

from montessori.pocket.muon import Muon, orthogonal


def test_the_update_keeps_the_singular_vectors_and_evens_the_singular_values():
    torch.manual_seed(0)
    for shape in ((3, 8, 8), (2, 24, 8), (2, 8, 24)):
        x = torch.randn(shape)
        values = torch.linalg.svdvals(orthogonal(x))
        assert values.min() > 0.3
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        inner = u.mT @ orthogonal(x) @ v.mT
        assert (inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))).abs().max() < 0.05


def test_steps_lower_a_loss():
    torch.manual_seed(0)
    weight, target = nn.Parameter(torch.zeros(6, 4)), torch.randn(6, 4)
    muon = Muon([weight])
    before = (weight - target).norm()
    for _ in range(60):
        weight.grad = None
        (weight - target).square().sum().backward()
        muon.step(0.1)
    assert (weight - target).norm() < before / 2
