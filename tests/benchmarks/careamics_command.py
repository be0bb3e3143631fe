"""Training and prediction of CAREamics 0.3.5 as a command: ``careamics_command.py SETTINGS``.

Runs in an environment of its own that has it. SETTINGS is JSON; see `time_to_quality`. Everything
that is not in it is as CAREamics has it by default.
"""

from __future__ import annotations

import json
import sys

import lightning as L
import numpy as np
from careamics import CAREamist
from careamics.config.factories import (
    create_care_config,
    create_n2v_config,
    create_structn2v_config,
)


def main() -> None:
    """Train, predict and save the result."""
    given = json.loads(sys.argv[1])
    L.seed_everything(given["seed"], verbose=False)
    shared = {name: given[name] for name in ("axes", "patch_size", "batch_size", "num_epochs")}
    shared |= {"experiment_name": "benchmark", "data_type": "array"}
    arrays = {"train_data": np.load(given["train"])}
    if given["algorithm"] == "care":
        config = create_care_config(**shared)
        arrays["train_data_target"] = np.load(given["target"])
    elif given["algorithm"] == "structn2v":
        config = create_structn2v_config(**shared, struct_n2v_axes="horizontal")
    else:
        config = create_n2v_config(**shared, use_n2v2=given["algorithm"] == "n2v2")
    careamist = CAREamist(config, work_dir=given["folder"])
    careamist.train(**arrays)
    images, _ = careamist.predict(np.load(given["test"]))
    np.save(given["result"], np.concatenate([np.squeeze(image)[None] for image in images]))


if __name__ == "__main__":
    main()
