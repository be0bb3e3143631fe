"""Write noisy sample images: ``python -m careamics_dm.samples FOLDER``."""

import sys

from careamics_dm.samples.simulation import write

if len(sys.argv) != 2:
    sys.exit("usage: python -m careamics_dm.samples FOLDER (writes four noisy TIFFs)")
print(*write(sys.argv[1]), sep="\n")
