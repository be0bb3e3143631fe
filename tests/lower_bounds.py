"""Print the lower bounds of what users install as constraints of pip, but for PyTorch's."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [of for name, of in project["optional-dependencies"].items() if name != "test"]
for required in (project["dependencies"], *extras):
    for name, bound in re.findall(r"^([\w-]+)>=(.*)$", "\n".join(required), re.M):
        if name != "torch":
            print(f"{name}=={bound}")
