"""``careamics-export``: a trained model as a package for bioimage.io."""

from pathlib import Path
from typing import Any

from careamics_dm.cli.exported_model import export_model


def main(config: dict[str, Any], folder: Path) -> None:
    """Export, into the folder of the run unless told otherwise."""
    path = export_model(**config | {"folder": config["folder"] or folder / "model.zip"})
    print(f"package          {path}")
    for key in ("authors", "license"):
        if not config[key]:
            print(f"(To upload it to bioimage.io, give {key}=, too.)")
