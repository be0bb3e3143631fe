"""Image stacks that a user's function returns: checked by their members and by two patches."""

from collections import Counter
from collections.abc import Callable, Sequence
from reprlib import repr as short
from typing import Any

from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.formats.custom.import_path import name_of
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.stack_rules import read_members, read_patch

PROBE = 8  # pixels per axis of the patches that are read to try a stack


def load_stacks(load: Callable[..., Any], source: Any, axes: str) -> list[ImageStack]:
    """Call an image stack loader and check what it returns; all faults come in one message.

    Of each stack, the first corner of the first sample and the last corner of the last one are
    read; then it is closed, if it has a ``close``.
    """
    name = name_of(load)
    try:
        stacks = load(source, axes)
    except DataError:
        raise
    except Exception as error:  # it is the user's
        raise DataError(
            f"{name}({short(source)}, {axes!r}) failed: {type(error).__name__}: {error}. Does it "
            "work when you call it yourself?"
        ) from error
    if not isinstance(stacks, list | tuple):
        raise DataError(
            f"{name} returned a {type(stacks).__name__}. Let it return a list of image stacks, "
            "also if there is one."
        )
    if not stacks:
        raise DataError(f"{name}({short(source)}, {axes!r}) returned no image stack.")
    found: list[ImageStack] = []
    faults: list[str] = []
    for number, stack in enumerate(stacks):
        try:
            found.append(stack if isinstance(stack, ArrayStack) else GivenStack(stack, number))
        except DataError as error:
            faults.append(str(error))
    names = Counter(stack.source for stack in found)
    if twice := [source for source, count in names.items() if count > 1]:
        faults.append(
            f"{', '.join(twice[:5])}: several image stacks have this source. Results are named "
            "by it: let each have its own."
        )
    if faults:
        raise DataError("\n".join(faults))
    return found


class GivenStack:
    """A user's image stack, with plain values for its members; see `ImageStack`.

    Optional members are those of the user's stack. Patches may be float32 whatever the
    ``data_dtype``, as CAREamics' are: then that is the dtype. ``number`` names it in messages.
    """

    def __init__(self, stack: Any, number: int) -> None:
        self.stack = stack
        members = read_members(stack, f"image stack {number}, a {type(stack).__name__}")
        self.source, self.data_shape = members.source, members.data_shape
        self.original_axes = members.original_axes
        self.original_data_shape = members.original_data_shape
        size = self.data_shape[2:]
        edge = [min(PROBE, n) for n in size]
        far = [n - e for n, e in zip(size, edge, strict=True)]
        first = (0, None, [0] * len(size), edge)
        last = (self.data_shape[0] - 1, [self.data_shape[1] - 1], far, edge)
        self.data_dtype = read_patch(stack, members, first, or_float32=True).dtype
        read_patch(stack, members, last, or_float32=True)
        if close := getattr(stack, "close", None):
            close()

    def extract_patch(
        self,
        sample_idx: int,
        channels: Sequence[int] | None,
        coords: Sequence[int],
        patch_size: Sequence[int],
    ) -> NDArray[Any]:
        """Read a patch; see `ImageStack.extract_patch`."""
        patch: NDArray[Any] = self.stack.extract_patch(sample_idx, channels, coords, patch_size)
        if patch.dtype != self.data_dtype:  # it would be cast in silence
            raise DataError(f"this patch is {patch.dtype}, others are {self.data_dtype}.")
        return patch

    def __getattr__(self, name: str) -> Any:
        """Find optional members."""
        if name.startswith("__") or name == "stack":  # asked for before there is a stack
            raise AttributeError(name)
        return getattr(self.stack, name)
