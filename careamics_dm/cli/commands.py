"""The four commands as they are installed; ``--help`` and wrong paths need no torch."""

import os
import sys
from functools import partial

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from careamics_dm.cli.help import help_text


def _run(command: str) -> None:
    flags = {text for text in sys.argv[1:] if text.startswith("-")}
    try:
        if not (flags & {"--help", "-h"} and _print_help(command)):
            from careamics_dm.cli.application import start  # late: --help needs no more

            start(command)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:  # before or after the jobs; SIGTERM is its argument
        sys.exit(128 + (stop.args[0] if stop.args else 2))
    except BrokenPipeError:  # whoever reads has seen enough, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _print_help(command: str) -> bool:
    """Print the help; false if the overrides are wrong, which the application explains."""
    try:
        text = help_text(command, [text for text in sys.argv[1:] if not text.startswith("-")])
    except (HydraException, OmegaConfBaseException):
        return False
    print(text)
    return True


train = partial(_run, "train")
predict = partial(_run, "predict")
preview = partial(_run, "preview")
export = partial(_run, "export")
