from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from careamics_dm.models.unet import BlurPool, UNet, misfit, pool_for


@pytest.fixture(autouse=True)
def fixed_weights() -> Iterator[None]:
    """A few random networks this small have a dead ReLU on every path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("n2v2", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dims", "shape"), [(2, (8, 12)), (3, (4, 8, 12))])
def test_keeps_shape(dims: int, shape: tuple[int, ...], channels: int, n2v2: bool) -> None:
    network = UNet(channels, dims=dims, first_filters=4, n2v2=n2v2)
    x = torch.randn(2, channels, *shape)
    out = network(x)
    assert out.shape == x.shape
    out.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_size_is_that_of_careamics() -> None:
    """Counts of trainable parameters of CAREamics 0.3.5 for the same options."""
    assert count(UNet(1, dims=2, depth=2, first_filters=32, batch_norm=True)) == 333729
    assert count(UNet(1, dims=2, depth=2, first_filters=32, batch_norm=True, n2v2=True)) == 324513
    assert count(UNet(2, dims=3, depth=3, first_filters=8, batch_norm=True)) == 513714
    three = UNet(
        3, 2, dims=2, depth=2, first_filters=16, batch_norm=True, independent_channels=False
    )
    assert count(three) == 84226


def test_no_batch_norm() -> None:
    network = UNet(1, dims=2, first_filters=4, batch_norm=False)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_begin_with_a_variance_of_one_over_their_inputs(dims: int) -> None:
    torch.manual_seed(0)
    network = UNet(2, dims=dims)  # of independent channels: each has its own inputs
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            assert layer.bias is not None
            assert not layer.bias.any()
            if layer.weight.numel() > 1000:
                assert layer.weight.var().item() * layer.weight[0].numel() == pytest.approx(
                    1, abs=0.1
                )


@pytest.mark.parametrize("n2v2", [False, True])
def test_channels_are_independent(n2v2: bool) -> None:
    network = UNet(3, dims=2, first_filters=4, n2v2=n2v2).eval()
    x = torch.randn(1, 3, 8, 8)
    changed = x.clone()
    changed[:, 1] += 1
    difference = (network(x) - network(changed)).abs().amax((0, 2, 3))
    assert difference[1] > 0
    assert difference[[0, 2]].max() == 0


def test_channels_can_mix() -> None:
    network = UNet(2, 1, dims=2, first_filters=4, independent_channels=False).eval()
    x = torch.randn(1, 2, 8, 8)
    assert network(x).shape == (1, 1, 8, 8)
    assert not torch.equal(network(x), network(x * torch.tensor([1.0, 2]).view(1, 2, 1, 1)))


def test_residual_adds_the_input() -> None:
    network = UNet(1, dims=2, first_filters=4, residual=True).eval()
    x = torch.randn(1, 1, 8, 8)
    whole = network(x)
    network.residual = False
    torch.testing.assert_close(whole, network(x) + x)


def test_n2v2_top_level_does_not_see_the_full_resolution() -> None:
    """Without the top skip, all information passes the pooling: far fewer degrees of freedom."""
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    rank = {}
    for n2v2 in (False, True):
        network = UNet(1, dims=2, depth=1, first_filters=1, n2v2=n2v2).double().eval()
        with torch.no_grad():
            for p in network.parameters():
                p.abs_()  # keeps ReLUs open
            jacobian = torch.autograd.functional.jacobian(network, x.abs() + 1)
        rank[n2v2] = int(torch.linalg.matrix_rank(jacobian.view(64, 64)))
    assert rank[True] <= 16 < rank[False]


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_pool(dims: int) -> None:
    pool = BlurPool((2,) * dims)
    x = torch.randn(2, 3, *(4, 6, 8)[-dims:])
    out = pool(x)
    assert out.shape[2:] == tuple(n // 2 for n in x.shape[2:])
    torch.testing.assert_close(pool(torch.ones_like(x)), torch.ones_like(out))
    assert pool.state_dict() == {}
    assert pool(torch.zeros(1, 1, *(2,) * dims)).shape[2:] == (1,) * dims


def test_blur_pool_values() -> None:
    """Against the definition, away from the border."""
    x = torch.randn(1, 1, 8, 8)
    peak = torch.stack([x[0, 0, a : a + 7, b : b + 7] for a in (0, 1) for b in (0, 1)]).amax(0)
    weight = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    expected = (peak[1:4, 3:6] * weight).sum()
    torch.testing.assert_close(BlurPool((2, 2))(x)[0, 0, 1, 2], expected)


@pytest.mark.parametrize("size", [2, 8])
def test_blur_pool_pads_with_zeros_if_asked(size: int) -> None:
    x = torch.rand(1, 1, size, size)
    network = UNet(1, dims=2, depth=1, first_filters=1, n2v2=True, blur_padding="zeros")
    peak = torch.nn.functional.max_pool2d(x, 2, stride=1)
    weight = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16
    expected = torch.nn.functional.conv2d(peak, weight, stride=2, padding=1)
    torch.testing.assert_close(network.pool(x), expected)


def test_size_that_does_not_fit() -> None:
    network = UNet(1, dims=3, first_filters=2)
    assert network.size_divisor == (4, 4, 4)
    with pytest.raises(ValueError, match=r"axis Y has 65 pixels.*multiple of 4. Use 64 or 68"):
        network(torch.zeros(1, 1, 8, 65, 64))
    with pytest.raises(ValueError, match=r"axis Z has 3 pixels.*Use 4\."):
        network(torch.zeros(1, 1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"takes batches \(N, C=1, Z, Y, X\)"):
        network(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r"in_channels"):
        network(torch.zeros(1, 2, 8, 64, 64))


def test_misfit_names_the_first() -> None:
    assert misfit((64, 32), 8) is None
    assert "axis X has 33" in str(misfit((64, 33), 8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dims": 4}, "dims=4"),
        ({"dims": 2, "depth": 0}, "depth=0"),
        ({"dims": 2, "out_channels": 2}, "independent_channels=False"),
        ({"dims": 2, "out_channels": 2, "independent_channels": False, "residual": True}, "resid"),
        ({"dims": 2, "n2v2": True, "residual": True}, "n2v2"),
        ({"dims": 2, "blur_padding": "wrap"}, "blur_padding='wrap'"),
        ({"dims": 2, "pool": (2,)}, "give 2 numbers, 1 or 2"),
        ({"dims": 3, "pool": (1, 2, 3)}, "give 3 numbers, 1 or 2"),
        ({"dims": 3, "pool": (1, 1, 1)}, "not all 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(1, **options)


@pytest.mark.parametrize("n2v2", [False, True])
@pytest.mark.parametrize("planes", [1, 2, 3, 5, 7])
def test_stacks_of_any_depth_where_z_is_not_halved(planes: int, n2v2: bool) -> None:
    network = UNet(1, dims=3, first_filters=2, n2v2=n2v2, pool=(1, 2, 2))
    assert network.size_divisor == (1, 4, 4)
    x = torch.randn(1, 1, planes, 8, 12)
    assert network(x).shape == x.shape


@pytest.mark.parametrize("n2v2", [False, True])
def test_the_reach_along_an_axis_that_is_not_halved(n2v2: bool) -> None:
    network = UNet(1, dims=3, depth=1, first_filters=1, n2v2=n2v2, pool=(1, 2, 2))
    for weight in network.parameters():
        nn.init.constant_(weight, 0.2)
    assert network.reach == (6, 11 if n2v2 else 10, 11 if n2v2 else 10)
    x = torch.zeros(1, 1, 21, 4, 4)
    x[:, :, 10] = 1e9
    depends = torch.nonzero(network(x)[0, 0, :, 0, 0] > network(0 * x)[0, 0, :, 0, 0])
    assert (int(depends.min()), int(depends.max())) == (10 - 6, 10 + 6)


@pytest.mark.parametrize(
    ("patch_size", "depth", "pool"),
    [
        ((64, 64), 2, None),
        ((16, 64, 64), 2, None),
        ((4, 64, 64), 2, None),  # halved twice, to a single plane
        ((6, 64, 64), 2, (1, 2, 2)),
        ((1, 64, 64), 1, (1, 2, 2)),
        ((9, 64, 64), 2, None),  # 8 or 12 would do
    ],
)
def test_patches_that_are_too_shallow_to_halve(patch_size: Any, depth: int, pool: Any) -> None:
    assert pool_for(patch_size, depth) == pool


def test_half_precision() -> None:
    network = UNet(1, dims=2, first_filters=2, n2v2=True).to(torch.bfloat16)
    assert network(torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("n2v2", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_restored_pixel_depends_on_pixels_as_far_as_the_reach_and_no_further(
    depth: int, n2v2: bool
) -> None:
    network = UNet(1, dims=2, depth=depth, first_filters=1, n2v2=n2v2)
    for weight in network.parameters():
        nn.init.constant_(weight, 0.2)  # no unit is silent
    (divisor, _), (reach, _) = network.size_divisor, network.reach
    middle = (reach // divisor + 2) * divisor
    found = []
    for place in range(middle, middle + divisor):
        x = torch.zeros(1, 1, divisor, 2 * middle + divisor)
        x[..., place] = 1e9
        depends = torch.nonzero(network(x)[0, 0, 0] > network(0 * x)[0, 0, 0])
        found += [place - int(depends.min()), int(depends.max()) - place]
    assert max(found) == reach
