"""The U-Net of CARE and Noise2Void, in two and three dimensions.

Imports nothing else of careamics_dm: exported models carry this file as it is.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CONV: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_POOL: dict[int, type[nn.MaxPool2d | nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORM: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class UNet(nn.Module):
    """U-Net that maps images to restored images of the same size.

    The U-Net (Ronneberger et al., 2015) of CARE (Weigert et al., 2018) and Noise2Void (Krull et
    al., 2019), layer for layer that of CAREamics 0.3.5 so that its weights can be used: two 3^D
    convolutions per level, each with batch normalisation and ReLU; max pooling by 2; a bottleneck
    with twice the filters; linear upsampling; concatenated skip connections; a final 1^D
    convolution. Weights begin as random numbers of variance one over the number of inputs (LeCun
    et al., 1998): with PyTorch's third of it, signals fade from layer to layer, and training starts
    later and sometimes fails.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    out_channels : int or None
        Channels of the output; None: as many as the input has.
    dims : {2, 3}
        Spatial dimensions.
    depth : int
        How many times the image is halved, at least 1.
    first_filters : int
        Filters of the first level, doubled at each level below. If channels are independent, so
        many for each channel.
    batch_norm : bool
        Normalise the output of each convolution over the batch.
    residual : bool
        Add the input to the output, to learn the correction only.
    independent_channels : bool
        Give each channel its own network (grouped convolutions). No information crosses channels
        then. Needs as many channels out as in.
    pool : sequence of int or None
        By how much each axis, ``(Z) Y X``, is divided at each halving, 1 or 2: ``(1, 2, 2)`` suits
        stacks of few planes. None: 2 along each axis; models whose network is built for the data
        leave out Z where patches are too shallow for it.
    n2v2 : bool
        The variant of N2V2 against checkerboard artefacts. It has blurred pooling (Zhang, 2019) and
        no skip connection at the top level (Höck et al., 2022). Excludes ``residual``.
    blur_padding : {"reflect", "zeros"}
        Padding of blurred pooling at the border. CAREamics pads with zeros.

    Attributes
    ----------
    size_divisor : tuple of int
        ``(Z) Y X``: each spatial size must be a multiple of it, ``2**depth`` of an axis that is
        halved.
    reach : tuple of int
        ``(Z) Y X``: how many pixels to each side a restored pixel depends on, at most.

    Raises
    ------
    ValueError
        If the arguments contradict each other or are out of range.

    References
    ----------
    LeCun et al., "Efficient BackProp", Neural networks: tricks of the trade, 1998. Ronneberger et
    al., "U-Net: Convolutional networks for biomedical image segmentation", MICCAI 2015. Weigert et
    al., "Content-aware image restoration: pushing the limits of fluorescence microscopy", Nature
    Methods 2018. Krull et al., "Noise2Void: learning denoising from single noisy images", CVPR
    2019. Höck et al., "N2V2: fixing Noise2Void checkerboard artifacts with modified sampling
    strategies and a tweaked network architecture", ECCV Workshops 2022. Zhang, "Making
    convolutional networks shift-invariant again", ICML 2019.

    Examples
    --------
    >>> UNet(1, dims=2)(torch.zeros(4, 1, 64, 64)).shape
    torch.Size([4, 1, 64, 64])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        dims: int,
        depth: int = 2,
        first_filters: int = 32,
        batch_norm: bool = False,
        residual: bool = False,
        independent_channels: bool = True,
        pool: Sequence[int] | None = None,
        n2v2: bool = False,
        blur_padding: Literal["reflect", "zeros"] = "reflect",
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        channels = {"in_channels": in_channels, "out_channels": out_channels}
        _check_numbers(dims, channels | {"depth": depth, "first_filters": first_filters})
        if in_channels != out_channels and (independent_channels or residual):
            option = "independent_channels" if independent_channels else "residual"
            raise ValueError(
                f"{option}=True needs as many channels out as in, but in_channels={in_channels} "
                f"and out_channels={out_channels}; set {option}=False."
            )
        factors = (2,) * dims if pool is None else tuple(pool)
        if len(factors) != dims or not {*factors} <= {1, 2} or max(factors) == 1:
            raise ValueError(f"pool={pool}: give {dims} numbers, 1 or 2 for each axis, not all 1.")
        if n2v2 and residual:
            raise ValueError("n2v2=True has no link from input to output: set residual=False.")
        if blur_padding not in ("reflect", "zeros"):
            raise ValueError(f"blur_padding={blur_padding!r}: choose among reflect, zeros.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dims = dims
        self.depth = depth
        self.residual = residual
        self.n2v2 = n2v2
        self.groups = in_channels if independent_channels else 1

        widths = [first_filters * self.groups * 2**level for level in range(depth)]
        self.factors = factors
        self.pool = BlurPool(factors, blur_padding) if n2v2 else _POOL[dims](factors)
        self.down = nn.ModuleList(
            self._block(before, width, width, batch_norm)
            for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.bottom = self._block(widths[-1], 2 * widths[-1], widths[-1], batch_norm)
        self.up = nn.ModuleList(self._block(2 * n, n, n // 2, batch_norm) for n in widths[:0:-1])
        top = widths[0]  # not halved, and without a skip connection in N2V2
        self.up.append(self._block(top if n2v2 else 2 * top, top, top, batch_norm))
        self.head = _CONV[dims](top, out_channels, 1, groups=self.groups)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @property
    def size_divisor(self) -> tuple[int, ...]:
        """What each spatial size must be a multiple of: two for each halving."""
        return tuple(factor**self.depth for factor in self.factors)

    @property
    def reach(self) -> tuple[int, ...]:
        """How many pixels to each side a restored pixel depends on, at most."""
        halved = 9 * 2**self.depth - 7 if self.n2v2 else 8 * 2**self.depth - 6
        return tuple(halved if factor == 2 else 4 * self.depth + 2 for factor in self.factors)

    def forward(self, x: Tensor) -> Tensor:
        """Restore a batch.

        Parameters
        ----------
        x : Tensor
            ``(N, C, (Z), Y, X)``, float; Z, Y and X multiples of ``size_divisor``.

        Returns
        -------
        Tensor
            ``(N, out_channels, (Z), Y, X)``.

        Raises
        ------
        ValueError
            If the count of dimensions or channels, or a spatial size, does not suit the network.
        """
        self._check_input(x)
        out, skips = x, []
        for block in self.down:
            out = block(out)
            skips.append(out)
            out = self.pool(out)
        out = self.bottom(out)
        for block in self.up:
            mode = "bilinear" if self.dims == 2 else "trilinear"
            out = F.interpolate(out, scale_factor=self.factors, mode=mode)
            skip = skips.pop()
            if skips or not self.n2v2:
                out = self._join(out, skip)
            out = block(out)
        restored: Tensor = self.head(out)
        return restored + x if self.residual else restored

    def _block(self, before: int, between: int, after: int, batch_norm: bool) -> nn.Sequential:
        """Two convolutions, each followed by its normalisation and ReLU."""
        layers: list[nn.Module] = []
        for source, result in ((before, between), (between, after)):
            layers.append(_CONV[self.dims](source, result, 3, padding=1, groups=self.groups))
            if batch_norm:
                layers.append(_NORM[self.dims](result))
            layers.append(nn.ReLU())
        return nn.Sequential(*layers)

    def _join(self, x: Tensor, skip: Tensor) -> Tensor:
        """Concatenate channels group by group: grouped convolutions read contiguous channels."""
        n, _, *space = x.shape
        split = [t.reshape(n, self.groups, -1, *space) for t in (x, skip)]
        return torch.cat(split, dim=2).flatten(1, 2)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != self.dims + 2 or x.shape[1] != self.in_channels:
            axes = "ZYX"[-self.dims :]
            raise ValueError(
                f"The network takes batches (N, C={self.in_channels}, {', '.join(axes)}), but got "
                f"one of shape {tuple(x.shape)}; build it with other in_channels or dims."
            )
        found = misfit(x.shape[2:], self.size_divisor)
        if found:
            raise ValueError(f"A batch of shape {tuple(x.shape)} does not fit the network: {found}")


class BlurPool(nn.Module):
    """Max pooling that halves without aliasing (Zhang, ICML 2019), in 2 or 3 dimensions.

    The maximum over 2^D neighbours is taken at each pixel, smoothed with the binomial filter
    [1, 2, 1] along each axis, and every second pixel is used.

    Parameters
    ----------
    factors : sequence of int
        2 for each axis, ``(Z) Y X``, that is halved, 1 for others.
    padding : {"reflect", "zeros"}
        What lies beyond the border.
    """

    kernel: Tensor

    def __init__(
        self, factors: Sequence[int], padding: Literal["reflect", "zeros"] = "reflect"
    ) -> None:
        super().__init__()
        self.padding = padding
        self.factors = tuple(factors)
        kernel = torch.ones(())
        for factor in factors:
            line = torch.tensor([0.25, 0.5, 0.25] if factor == 2 else [1.0])
            kernel = kernel.unsqueeze(-1) * line
        # Not persistent: a constant, which checkpoints need not carry.
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve a batch: ``(N, C, (Z), Y, X)`` with even sizes to half of each size."""
        two = len(self.factors) == 2
        peak = (F.max_pool2d if two else F.max_pool3d)(x, self.factors, stride=1)
        # A size of 2 leaves one maximum, which has no neighbour to reflect.
        halved = [n for n, f in zip(peak.shape[2:], self.factors, strict=True) if f == 2]
        mode = "reflect" if min(halved) > 1 else "replicate"
        mode = "constant" if self.padding == "zeros" else mode
        border = [n // 2 for n in reversed(self.kernel.shape) for _ in range(2)]
        peak = F.pad(peak, border, mode=mode)
        weight = self.kernel.to(x.dtype).expand(x.shape[1], 1, *self.kernel.shape)
        convolve = F.conv2d if two else F.conv3d
        return convolve(peak, weight, stride=self.factors, groups=x.shape[1])


def per_axis(numbers: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """Return a number for each axis, ``(Z) Y X``, where one may stand for all."""
    return (numbers,) * dims if isinstance(numbers, int) else tuple(numbers)


def pool_for(patch_size: Sequence[int], depth: int) -> tuple[int, ...] | None:
    """Return the pooling for patches of so few planes that Z can't be halved; else None."""
    planes, *rest = patch_size
    shallow = len(rest) == 2 and planes % 2**depth and planes < 2 ** (depth + 1)
    return (1, 2, 2) if shallow else None


def misfit(sizes: Sequence[int], size_divisor: int | Sequence[int]) -> str | None:
    """Name the first axis of ``(Z) Y X`` sizes that does not fit, and sizes that do."""
    dims = len(sizes)
    for axis, size, n in zip("ZYX"[-dims:], sizes, per_axis(size_divisor, dims), strict=True):
        if size % n == 0 and size > 0:
            continue
        below = size // n * n
        fitting = f"{below} or {below + n}" if below else f"{n}"
        need = f"the network needs a multiple of {n}. Use {fitting}."
        return f"axis {axis} has {size} pixels, but {need}"
    return None


def _check_numbers(dims: int, counts: dict[str, int]) -> None:
    if dims not in (2, 3):
        raise ValueError(f"dims={dims!r}: choose among 2, 3.")
    for name, count in counts.items():
        most = 10 if name == "depth" else 2**16
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
            raise ValueError(f"{name}={count!r}: give a whole number from 1 to {most}.")
