"""The four commands: train, predict, preview and export."""

import inspect
from typing import Any

import hydra

HAS_WHITELIST = "execution_whitelist" in inspect.signature(hydra.main).parameters
"""Whether Hydra, since 1.4, asks which targets a configuration may name."""
BASE: dict[str, Any] = {} if HAS_WHITELIST else {"version_base": "1.3"}
"""How Hydra is asked for its present behaviour: 1.3 wants a version, 1.4 wants none."""
