"""CARE and Noise2Noise: restoration learned from pairs of images."""

from careamics_dm.models.base import RestorationModule


class CAREModule(RestorationModule):
    """Content-aware image restoration (Weigert et al., 2018): supervised, from pairs.

    The network sees an image and learns to predict its target, such as a clean recording of the
    same sample. Targets may have other channels than the images. The paper's loss is the mean
    absolute error.

    The weights with the lowest ``val_loss`` are saved: it is measured against clean images, and
    once it rises the network memorises the training images.

    Parameters
    ----------
    network : nn.Module or callable
        The network or its builder; see `RestorationModule`.
    loss : {"mae", "mse"} or callable, optional
        Mean absolute or squared error, or a function of your own; see `RestorationModule`. By
        default the mean absolute error.
    size_divisor, optimizer, scheduler, compile
        See `RestorationModule`.

    Raises
    ------
    ValueError
        If there is no loss of that name.

    References
    ----------
    Weigert et al., "Content-aware image restoration: pushing the limits of fluorescence
    microscopy", Nature Methods 15, 2018.
    """

    learns_from = "clean targets"
    keeps = "best"
    usual_loss = "mae"


class N2NModule(RestorationModule):
    """Noise2Noise (Lehtinen et al., 2018): supervised like CARE, but with noisy targets.

    Image and target are two recordings of the same sample whose noise is independent. The network
    cannot predict the noise of the target, so the least squared error is reached by the target's
    mean: the signal, if the noise has zero mean. The absolute error of CARE is minimised by the
    median, which differs from the signal where noise is skewed.

    The last weights are saved. ``val_loss`` is measured against noise: it is at least the noise's
    variance, beside which differences in image quality are small, so its minimum is where the
    noise of a few validation patches happened to suit.

    Parameters
    ----------
    network : nn.Module or callable
        The network or its builder; see `RestorationModule`.
    loss : {"mae", "mse"} or callable, optional
        Mean absolute or squared error, or a function of your own; see `RestorationModule`. By
        default the mean squared error.
    size_divisor, optimizer, scheduler, compile
        See `RestorationModule`.

    Raises
    ------
    ValueError
        If there is no loss of that name.

    References
    ----------
    Lehtinen et al., "Noise2Noise: learning image restoration without clean data", ICML 2018.
    """

    learns_from = "noisy targets"
    keeps = "last"
    usual_loss = "mse"
