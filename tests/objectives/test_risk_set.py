"""Sums over risk sets against a matrix that tells who is at risk when."""

import pytest
import torch

from fm_med.objectives.risk_set import Intervals, Prefixes
from fm_med.objectives.sums import LOGARITHMS, PLAIN


@pytest.mark.parametrize("form", [PLAIN, LOGARITHMS])
@pytest.mark.parametrize("groups", [1, 2, 3, 8, 13])
def test_every_interval_of_groups_is_summed(form, groups):
    """A row in none, in one and in several groups; the sums of a matrix that tells who is where."""
    first, end = torch.cartesian_prod(torch.arange(groups + 1), torch.arange(groups + 1)).T
    belongs = (torch.arange(groups)[:, None] >= first) & (torch.arange(groups)[:, None] < end)
    generator = torch.Generator().manual_seed(groups)
    of_rows = torch.rand(len(first), generator=generator, dtype=torch.float64)
    of_groups = torch.rand(groups, generator=generator, dtype=torch.float64)
    plan = Intervals.build(first, end, groups)
    for held, how, expected in (
        (of_rows, plan.sum_rows, belongs.double() @ of_rows),
        (of_groups, plan.sum_groups, of_groups @ belongs.double()),
    ):
        found = form.log(how(form.hold(held.log()), form)).exp()
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("form", [PLAIN, LOGARITHMS])
def test_a_stratum_without_groups_is_summed(form):
    stratum = torch.tensor([0, 0, 0, 1, 2, 2])
    plan = Prefixes.build(torch.tensor([0, 1, 2, 2, 2, 3]), [2, 0, 2], stratum)
    rows = form.hold(torch.tensor([1.0, 2, 4, 8, 16, 32]).log())
    assert form.log(plan.sum_rows(rows, form)).exp().tolist() == pytest.approx([1, 3, 16, 48])
    groups = form.hold(torch.tensor([1.0, 2, 4, 8]).log())
    found = form.log(plan.sum_groups(groups, form)).exp()
    assert found.tolist() == pytest.approx([3, 2, 0, 0, 12, 8])
