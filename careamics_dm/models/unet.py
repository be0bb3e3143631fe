"""The U-Net of CARE and Noise2Void, in two and three dimensions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from careamics_dm.images import checks as check

_CONV: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class UNet(nn.Module):
    """U-Net that maps images to restored images of the same size.

    The U-Net (Ronneberger et al., 2015) of CARE (Weigert et al., 2018) and Noise2Void (Krull et
    al., 2019), layer for layer that of CAREamics 0.3.5 so that results can be compared: two 3^D
    convolutions per level, each with batch normalisation and ReLU; max pooling by 2; a bottleneck
    with twice the filters; linear upsampling; concatenated skip connections; a final 1^D
    convolution.

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
    n2v2 : bool
        The variant of N2V2 against checkerboard artefacts. It has blurred pooling (Zhang, 2019) and
        no skip connection at the top level (Höck et al., 2022). Excludes ``residual``.

    Attributes
    ----------
    size_divisor : int
        ``2**depth``: each spatial size must be a multiple of it.
    reach : int
        How many pixels to each side a restored pixel depends on, at most.

    Raises
    ------
    ValueError
        If the arguments contradict each other or are out of range.

    References
    ----------
    Ronneberger et al., "U-Net: Convolutional networks for biomedical image segmentation",
    MICCAI 2015. Weigert et al., "Content-aware image restoration: pushing the limits of
    fluorescence microscopy", Nature Methods 2018. Krull et al., "Noise2Void: learning denoising
    from single noisy images", CVPR 2019. Höck et al., "N2V2: fixing Noise2Void checkerboard
    artifacts with modified sampling strategies and a tweaked network architecture", ECCV
    Workshops 2022. Zhang, "Making convolutional networks shift-invariant again", ICML 2019.

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
        n2v2: bool = False,
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
        if n2v2 and residual:
            raise ValueError("n2v2=True has no link from input to output: set residual=False.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dims = dims
        self.depth = depth
        self.residual = residual
        self.n2v2 = n2v2
        self.groups = in_channels if independent_channels else 1

        widths = [first_filters * self.groups * 2**level for level in range(depth)]
        self.pool = BlurPool(dims) if n2v2 else (nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d(2))
        self.down = nn.ModuleList(
            self._block(before, width, width, batch_norm)
            for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.bottom = self._block(widths[-1], 2 * widths[-1], widths[-1], batch_norm)
        self.up = nn.ModuleList(self._block(2 * n, n, n // 2, batch_norm) for n in widths[:0:-1])
        top = widths[0]  # not halved, and without a skip connection in N2V2
        self.up.append(self._block(top if n2v2 else 2 * top, top, top, batch_norm))
        self.head = _CONV[dims](top, out_channels, 1, groups=self.groups)

    @property
    def size_divisor(self) -> int:
        """What each spatial size must be a multiple of: two for each halving."""
        return 1 << self.depth

    @property
    def reach(self) -> int:
        """How many pixels to each side a restored pixel depends on, at most."""
        return (9 * self.size_divisor - 7) if self.n2v2 else (8 * self.size_divisor - 6)

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
            out = F.interpolate(out, scale_factor=2, mode=mode)
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
    [1, 2, 1] along each axis (reflected at the border), and every second pixel is used.
    """

    kernel: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        kernel = line
        for _ in range(dims - 1):
            kernel = kernel.unsqueeze(-1) * line
        # Not persistent: a constant, which checkpoints need not carry.
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve a batch: ``(N, C, (Z), Y, X)`` with even sizes to half of each size."""
        dims = self.kernel.ndim
        peak = (F.max_pool2d if dims == 2 else F.max_pool3d)(x, 2, stride=1)
        # A size of 2 leaves one maximum, which has no neighbour to reflect.
        mode = "reflect" if min(peak.shape[2:]) > 1 else "replicate"
        peak = F.pad(peak, (1,) * (2 * dims), mode=mode)
        weight = self.kernel.to(x.dtype).expand(x.shape[1], 1, *self.kernel.shape)
        convolve = F.conv2d if dims == 2 else F.conv3d
        return convolve(peak, weight, stride=2, groups=x.shape[1])


def misfit(sizes: Sequence[int], size_divisor: int) -> str | None:
    """Name the first axis of ``(Z) Y X`` sizes that does not fit, and sizes that do."""
    for axis, size in zip("ZYX"[-len(sizes) :], sizes, strict=True):
        if size % size_divisor == 0 and size > 0:
            continue
        below = size // size_divisor * size_divisor
        fitting = f"{below} or {below + size_divisor}" if below else f"{size_divisor}"
        need = f"the network needs a multiple of {size_divisor}. Use {fitting}."
        return f"axis {axis} has {size} pixels, but {need}"
    return None


def _check_numbers(dims: int, counts: dict[str, int]) -> None:
    check.one_of("dims", dims, (2, 3))
    for name, count in counts.items():
        check.number(name, count, 1, 10 if name == "depth" else 2**16)
