import math

import pytest
import torch

from ptq.utils.metrics import agreement, energies, kl_divergence, sqnr_db, top1


def test_top1_counts_rows_whose_largest_entry_is_the_label() -> None:
    logits = torch.eye(4)
    assert top1(logits, torch.tensor([0, 1, 2, 0])) == 75.0


def test_agreement_ignores_scale_and_offset() -> None:
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert agreement(logits, 3 * logits + 1) == 100.0
    assert agreement(logits, -logits) == 0.0


def test_sqnr_of_a_tenth_of_the_amplitude_is_20_db() -> None:
    reference = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert sqnr_db(reference, 0.9 * reference) == pytest.approx(20, abs=1e-4)


def test_sqnr_at_the_ends() -> None:
    ones, zeros = torch.ones(3), torch.zeros(3)
    assert sqnr_db(ones, ones) == math.inf
    assert sqnr_db(zeros, zeros) == math.inf
    assert sqnr_db(zeros, ones) == -math.inf
    assert sqnr_db(ones, zeros) == 0.0


def test_sqnr_sums_in_float64() -> None:
    assert sqnr_db(torch.full((10,), 1e30), torch.full((10,), 0.9e30)) == pytest.approx(20, abs=1e-4)


def test_kl_divergence_of_two_coins() -> None:
    fair, biased = torch.zeros(1, 2), torch.log(torch.tensor([[0.25, 0.75]]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(fair, biased) == pytest.approx(expected)
    both = torch.cat([fair, biased])
    assert kl_divergence(both, biased.expand(2, 2)) == pytest.approx(expected / 2)


def test_kl_divergence_ignores_offsets_and_is_never_negative() -> None:
    logits = 9 * torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert kl_divergence(logits, logits) == 0
    assert 0 <= kl_divergence(logits, logits + 100) < 1e-9


def test_whole_numbers_and_truth_values_have_energies() -> None:
    assert energies(torch.tensor([True, False]), torch.tensor([True, True])) == (1.0, 1.0)
    small, large = torch.tensor([1], dtype=torch.uint8), torch.tensor([200], dtype=torch.uint8)
    assert energies(large, small) == (200.0**2, 199.0**2) and energies(small, large)[1] == 199.0**2
