"""Export of a trained model as a package for bioimage.io, which other programs can run."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from matplotlib.image import imsave
from numpy.typing import NDArray

from careamics_dm.cli.checkpoints import load_checkpoint
from careamics_dm.cli.model_description import (
    INPUT,
    OUTPUT,
    Sizes,
    documentation_of,
    method_of,
    sizes_of,
    tags_of,
    tensors,
)
from careamics_dm.cli.network_export import weights_of
from careamics_dm.cli.trained_model import (
    Shape,
    TrainedModel,
    data_for,
    make,
    predict,
    shape_of,
    trained_model,
)
from careamics_dm.cli.trust import check_config
from careamics_dm.errors import DataError
from careamics_dm.evaluation.figure import display_range, range_within
from careamics_dm.evaluation.planes import middle, middle_plane
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.images.region import read_region
from careamics_dm.models.base import RestorationModule
from careamics_dm.samples.simulation import Name, load
from careamics_dm.transforms.normalization import Affine

_TESTED = {2: (128, 128), 3: (16, 64, 64)}
"""Pixels of the test image, about."""
_COVER = 256
"""Pixels of each half of the cover, about."""


def export_model(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    name: str | None = None,
    description: str | None = None,
    authors: Sequence[str | dict[str, str]] = (),
    license: str | None = None,
    tags: Sequence[str] = (),
    documentation: str | Path | None = None,
    image: NDArray[Any] | str | Path | None = None,
    axes: str | None = None,
    trusted: Sequence[str] = (),
) -> Path:
    """Write a package for bioimage.io, and let its library test it.

    The package has the weights for PyTorch, with the source of the network, and as TorchScript,
    with normalisation and its way back described: ImageJ, QuPath, ilastik, napari and others run
    it on images in their own units.

    Parameters
    ----------
    checkpoint : path
        ``model.ckpt`` of a run, or a checkpoint of CAREamics.
    folder : path
        Where to write: a new folder, or a new file that ends in ``.zip``, as bioimage.io takes it.
    name : str, optional
        Of the model, at least 5 letters; by default that of the method and the dimensions.
    description : str, optional
        What it does, in a sentence or two.
    authors : sequence of str or dict
        Names, or ``{"name": ..., "affiliation": ..., "github_user": ..., "orcid": ...}``.
    license : str, optional
        Under which others may use the model, by its SPDX identifier, such as ``"CC-BY-4.0"``.
    tags : sequence of str
        What it should be found by, such as ``"nuclei"`` or ``"fluorescence-light-microscopy"``.
    documentation : path, optional
        A Markdown file (``.md``) instead of the short text that is written.
    image : ndarray or path, optional
        Image for the tests and the cover, of the kind that the model was trained on; the middle of
        it becomes a part of the package. By default one of our simulated samples.
    axes : str, optional
        Of the image; by default those of the training.
    trusted : sequence of str
        See `load_model`.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    DataError
        If there is something at this path, the network can't be exported, a test fails, or the
        library is missing (``pip install 'careamics-dm[export]'``).

    Examples
    --------
    >>> export_model("runs/first/model.ckpt", "denoiser.zip", license="MIT")  # doctest: +SKIP
    """
    path = Path(folder).expanduser()
    if path.exists():
        raise DataError(f"folder: {path} exists already. Name a new folder or .zip file.")
    _check_library()
    content = load_checkpoint(checkpoint)
    trained, shape = trained_model(content, checkpoint, trusted), shape_of(content)
    module, config = trained.module, trained.config
    if not isinstance(module, RestorationModule):
        raise DataError(
            f"checkpoint: {checkpoint} holds a {type(module).__name__}. Models of careamics_dm "
            "(Noise2Void, CARE, Noise2Noise) can be exported, with any network."
        )
    parts = {"normalization": config["data"].get("normalization", "mean_std")} | config["model"]
    parts = check_config(parts, trusted, checkpoint)
    sizes, method = sizes_of(module, shape.patch_size), method_of(module)
    test = _test_of(trained, parts["normalization"], shape, sizes, image, axes)
    dims = f"{len(shape.patch_size)}D"
    name = name or f"{method.name} {dims} denoising"
    description = description or f"Restores {dims} microscopy images, trained by {method.name}."
    made = documentation_of(name, description, method, sizes)
    text = made if documentation is None else _read(documentation)
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        (here / "README.md").write_text(text, encoding="utf-8")
        fields = {
            "type": "model",
            "format_version": "0.5.12",
            "name": name,
            "description": description,
            "authors": [{"name": a} if isinstance(a, str) else dict(a) for a in authors],
            "license": license,
            "tags": [*tags_of(module, dims), *tags],
            "cite": method.cite,
            "documentation": {"source": "README.md"},
            "weights": weights_of(module, parts["network"], shape, sizes, here),
            **_write_test(test, trained, sizes, here),
        }
        source = here / "rdf.yaml"
        source.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
        _test_and_pack(source, path)
    return path


class _Test(NamedTuple):
    """An image before and after, ``C (Z) Y X``, and the names of its channels."""

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    names: list[str]
    restored: list[str]


def _test_of(
    trained: TrainedModel, method: Any, shape: Shape, sizes: Sizes, image: Any, axes: str | None
) -> _Test:
    """Restore the middle of an image, or a sample that is normalised by ``method``."""
    n, size = shape.n_channels, sizes.at_least(_TESTED[len(shape.patch_size)])
    if image is None:
        before, own = _sample(method, trained.statistics["image"].spread(n, "image"), size), None
    else:
        before, own = _middle_of(trained, image, axes, size)
    after = predict(trained, before, axes=f"C{'ZYX'[-len(size) :]}", channels=None)
    data = trained.config["data"]
    names = _channel_names(data.get("channels"), n, own)
    return _Test(
        before, after, names, _channel_names(data.get("target_channels"), len(after), names)
    )


def _write_test(test: _Test, trained: TrainedModel, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Write tensors and cover; describe them, with normalisation and its way back."""
    np.save(folder / f"{INPUT}.npy", test.before[None])
    np.save(folder / f"{OUTPUT}.npy", test.after[None])
    _draw_cover(test.before, test.after, folder / "cover.png")
    image = trained.statistics["image"]
    target = trained.statistics.get(trained.module.restores_to, image)
    image = image.spread(len(test.before), "image")
    target = target.spread(len(test.after), "target")
    described = tensors(sizes, test.names, test.restored, image, target)
    return {"covers": [{"source": "cover.png"}], **described}


def _sample(method: Any, statistics: Affine, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Simulate an image ``C (Z) Y X`` with the intensities of the training images."""
    name: Name = "nuclei" if len(size) == 2 else "filaments"
    n = len(statistics.offset)
    image = np.stack([load(name, recording=i, size=size).noisy for i in range(n)])
    data = ArrayDataModule(
        train_data=image,
        axes=f"C{'ZYX'[-len(size) :]}",
        patch_size=size,
        n_val_patches=0,
        augmentation=False,
        normalization=make(method) if isinstance(method, dict) else method,
    )
    data.setup("fit")
    own = data.measure_statistics()["image"].spread(n, "image")
    columns = (np.reshape(c, (n, *(1,) * len(size))) for c in (*own[:2], *statistics[:2]))
    offset, scale, wanted, times = columns
    return np.asarray((image - offset) / scale * times + wanted, np.float32)


def _middle_of(
    trained: TrainedModel, image: Any, axes: str | None, size: tuple[int, ...]
) -> tuple[NDArray[np.float32], list[str] | None]:
    """Read the middle of the first image, ``C (Z) Y X``, and the names of its channels."""
    data = data_for(trained, image, {"axes": axes} if axes else {})
    data.setup("predict")
    try:
        images = data.images_of("predict")
        stack, channels = images.stacks[0], images.channels[0]
        region = middle(stack, dict(zip("ZYX"[-len(size) :], size, strict=True)))
        found = tuple(b - a for a, b in zip(region.start, region.stop, strict=True))
        if found != size:
            raise DataError(
                f"image: {stack.source} has {tuple(stack.data_shape[2:])} pixels, but tests need "
                f"at least {size}. Give a larger image."
            )
        names = getattr(stack, "channel_names", None)
        chosen = range(stack.data_shape[1]) if channels is None else channels
        return (
            np.asarray(read_region(stack, region, channels), np.float32),
            [names[i] for i in chosen] if names else None,
        )
    finally:
        data.teardown("predict")


def _channel_names(
    chosen: Sequence[int | str] | None, n: int, otherwise: Sequence[str] | None
) -> list[str]:
    """Name channels as the training did, or otherwise, or by numbers."""
    names = [name for name in chosen or () if isinstance(name, str)]
    if len(names) == n:
        return names
    if otherwise is not None and len(otherwise) == n:
        return list(otherwise)
    return [f"channel{i}" for i in range(n)]


def _draw_cover(before: NDArray[Any], after: NDArray[Any], path: Path) -> None:
    """Draw the same square before and after, side by side."""
    noisy, restored = middle_plane(before), middle_plane(after)
    n = min(restored.shape)
    limits = display_range(restored)
    halves = []
    for plane, (low, high) in ((noisy, range_within(noisy, limits)), (restored, limits)):
        grey = np.clip((plane[:n, :n] - low) / (high - low), 0, 1)
        halves.append(grey.repeat(times := -(-_COVER // n), 0).repeat(times, 1))
    imsave(path, np.hstack(halves), cmap="gray", vmin=0, vmax=1)


def _read(documentation: str | Path) -> str:
    try:
        return Path(documentation).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"documentation: {documentation} can't be read ({error}). Give a Markdown file."
        ) from error


def _check_library() -> None:
    """Refuse before any work where the library of bioimage.io is missing."""
    try:
        import bioimageio.core  # noqa: F401 - late: it takes seconds
    except ImportError as error:
        raise DataError(
            f"the library of bioimage.io is needed: pip install 'careamics-dm[export]' ({error})"
        ) from error


def _test_and_pack(source: Path, path: Path) -> None:
    """Let the library test a package, as bioimage.io does, and write it."""
    from bioimageio.core import load_description_and_test  # late: it takes seconds
    from bioimageio.spec import save_bioimageio_package, save_bioimageio_package_as_folder

    model = load_description_and_test(source)
    summary = model.validation_summary
    if summary.status != "passed":
        faults = [
            f"{'.'.join(map(str, e.loc))}: {e.msg}" for d in summary.details for e in d.errors
        ]
        raise DataError(f"the package fails the tests of bioimage.io: {'; '.join(faults)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        save_bioimageio_package(model, output_path=path)
    else:
        save_bioimageio_package_as_folder(model, output_path=path)
