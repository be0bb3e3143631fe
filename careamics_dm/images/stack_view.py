"""An image stack seen through another one."""

from typing import Any

from careamics_dm.images.axes import Layout
from careamics_dm.images.boxes import Boxes
from careamics_dm.images.image_stack import Channels, ImageStack


class StackView:
    """Members of another ``stack``, optional ones too, but for those that a subclass has."""

    def __init__(self, stack: ImageStack) -> None:
        self.stack = stack
        self.source, self.data_shape = stack.source, tuple(stack.data_shape)
        self.data_dtype = stack.data_dtype
        self.original_axes = stack.original_axes
        self.original_data_shape = tuple(stack.original_data_shape)

    def __getattr__(self, name: str) -> Any:
        """Find optional members."""
        if name.startswith("__") or name == "stack":  # asked for before there is a stack
            raise AttributeError(name)
        return getattr(self.stack, name)


def layout_of(stack: ImageStack) -> Layout:
    """Return the axes on disk of an image; Z is among the samples where the image has no depth."""
    axes, shape = stack.original_axes, tuple(stack.original_data_shape)
    return Layout(axes, shape, z_as_samples=len(stack.data_shape) == 4)


def boxes_acquired(stack: ImageStack, sample: int, channels: Channels) -> Boxes | None:
    """Return the `valid_region` of a stack, which need not have one."""
    ask: Any = getattr(stack, "valid_region", lambda *_: None)
    found: Boxes | None = ask(sample, channels)
    return found
