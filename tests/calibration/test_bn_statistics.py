"""BatchNorm statistics: measured right, compared right, and without a trace on the network."""

import pytest
import torch
from torch import nn

from ptq.calibration.bn_statistics import (
    MATCHING,
    channel_moments,
    has_batch_norm,
    image_moments,
    matching_loss,
    record_moments,
    statistics_distance,
)
from ptq.errors import ModelError


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
    )


def remember(net: nn.Module, images: torch.Tensor) -> nn.Module:
    """Let the BNs of a network store exactly the moments of these images (biased, as they are matched)."""
    with record_moments(net.eval()) as moments, torch.no_grad():
        layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for index, layer in enumerate(layers):
            moments.clear()
            net(images)
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.copy_(moments[index].mean)
            layer.running_var.copy_(moments[index].var)
    return net


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_and_their_gradient_agree_with_autograd(layout: torch.memory_format) -> None:
    x = torch.randn(4, 5, 6, 7).contiguous(memory_format=layout).requires_grad_()
    weights = torch.randn(2, 5)
    mean, var = channel_moments(x)
    (fused,) = torch.autograd.grad((weights[0] * mean + weights[1] * var).sum(), x)
    expected_var, expected_mean = torch.var_mean(x, (0, 2, 3), correction=0)
    loss = (weights[0] * expected_mean + weights[1] * expected_var).sum()
    (expected,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close((mean, var), (expected_mean, expected_var), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-6)


def test_loss_and_distance_are_zero_where_the_statistics_match() -> None:
    images = torch.randn(16, 3, 12, 12)
    net = remember(small_net(), images)
    with record_moments(net) as moments:
        net(images)
    assert matching_loss(moments).item() < 1e-4
    assert statistics_distance(net, images, batch=5) < 1e-6
    assert statistics_distance(net, 2 * images + 1) > 0.1


def test_the_loss_pulls_towards_the_statistics() -> None:
    net = remember(small_net(), torch.randn(16, 3, 12, 12)).requires_grad_(False)
    x = (3 + torch.randn(16, 3, 12, 12)).requires_grad_()
    losses = []
    with record_moments(net) as moments:
        for _ in range(20):
            moments.clear()
            net(x)
            loss = matching_loss(moments)
            (gradient,) = torch.autograd.grad(loss, x)
            x = (x - 0.1 * gradient.sign()).detach().requires_grad_()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_loss_does_not_depend_on_the_scale_of_activations() -> None:
    """Scaling a convolution and the statistics after it leaves a network, and so its loss, the same."""
    images, other = torch.randn(8, 3, 12, 12), torch.rand(8, 3, 12, 12)
    losses = []
    for scale in (1.0, 100.0):
        net = small_net()
        with torch.no_grad():
            for parameter in net[0].parameters():
                parameter.mul_(scale)
        remember(net, images)
        with record_moments(net) as moments:
            net(other)
        losses.append(matching_loss(moments).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_perfect_match_has_a_finite_gradient() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    net.load_state_dict({**net.state_dict(), "0.running_var": torch.zeros(3)})
    with record_moments(net) as moments:
        net(x)
    (gradient,) = torch.autograd.grad(matching_loss(moments), x)
    assert torch.isfinite(gradient).all()


def test_hooks_go_even_when_the_pass_fails() -> None:
    net = small_net().eval()
    with pytest.raises(RuntimeError), record_moments(net):
        net(torch.zeros(1, 5, 8, 8))
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_layer_called_twice_is_recorded_twice_and_subclasses_count() -> None:
    class Fancy(nn.BatchNorm2d):
        pass

    shared = Fancy(3)
    net = nn.Sequential(shared, nn.ReLU(), shared).eval()
    with record_moments(net) as moments:
        net(torch.randn(2, 3, 4, 4))
    assert len(moments) == 2


def test_without_batchnorm_the_message_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="vit"), record_moments(nn.Sequential(nn.Conv2d(3, 3, 1)), "vit"):
        pass


def test_moments_in_bfloat16_are_those_of_float32_to_its_precision() -> None:
    x = (torch.randn(16, 5, 8, 8) + 1).bfloat16().requires_grad_()
    mean, var = channel_moments(x)
    expected_var, expected_mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.float(), expected_mean, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(var.float(), expected_var, rtol=1e-2, atol=1e-2)
    (fused,) = torch.autograd.grad(mean.float().sum() + var.float().sum(), x)
    assert fused.dtype == torch.bfloat16
    full = x.detach().float().requires_grad_()
    var, mean = torch.var_mean(full, (0, 2, 3), correction=0)
    (expected,) = torch.autograd.grad(mean.sum() + var.sum(), full)
    torch.testing.assert_close(fused.float(), expected, rtol=3e-2, atol=1e-4)


def test_moments_of_each_image_are_those_of_a_batch_of_one() -> None:
    x = torch.randn(3, 4, 5, 6)
    means, variances = image_moments(x)
    for index in range(3):
        mean, var = channel_moments(x[index : index + 1])
        torch.testing.assert_close(means[index], mean)
        torch.testing.assert_close(variances[index], var)


@pytest.mark.parametrize("rule", MATCHING)
@pytest.mark.parametrize("per_image", [False, True])
def test_every_rule_is_zero_where_statistics_match_and_grows_with_the_difference(rule: str, per_image: bool) -> None:
    images = torch.randn(1, 3, 12, 12).expand(4, -1, -1, -1)  # of equal images each is as the batch
    net = remember(small_net(), images)
    losses = []
    for shift in (0.0, 0.5, 1.0):
        x = (images + shift * torch.arange(3.0).view(3, 1, 1)).requires_grad_()
        with record_moments(net, per_image=per_image) as moments:
            net(x)
        loss = matching_loss(moments, rule=rule)
        assert bool(torch.autograd.grad(loss, x)[0].isfinite().all())
        losses.append(loss.item())
    assert losses[0] < 1e-3 < losses[1] < losses[2]


def test_networks_with_and_without_statistics_are_told_apart() -> None:
    assert has_batch_norm(small_net())
    assert not has_batch_norm(nn.BatchNorm2d(3, track_running_stats=False))
    assert not has_batch_norm(nn.Sequential(nn.Conv2d(3, 3, 1), nn.LayerNorm(3)))


def test_mean_squares_weigh_a_wide_layer_no_more_than_a_narrow_one() -> None:
    plane = torch.randn(2, 1, 8, 8) + 1
    losses: dict[str, list[float]] = {"squares": [], "mean squares": []}
    for channels in (4, 64):
        net = nn.Sequential(nn.BatchNorm2d(channels)).eval()
        with record_moments(net) as moments:
            net(plane.expand(-1, channels, -1, -1))
        for rule, values in losses.items():
            values.append(matching_loss(moments, 1.0, rule).item())
    narrow, wide = losses["mean squares"]
    assert wide == pytest.approx(narrow, rel=1e-4)
    narrow, wide = losses["squares"]
    assert wide == pytest.approx(16 * narrow, rel=1e-4)
