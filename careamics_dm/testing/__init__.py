"""The promises of image stacks and data modules as checks, for formats of your own."""

from careamics_dm.testing.datamodule_checks import check_datamodule
from careamics_dm.testing.image_stack_checks import check_image_stack

__all__ = ["check_datamodule", "check_image_stack"]
