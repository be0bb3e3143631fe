"""How much memory is free."""

import os
import sys
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Bytes that can be taken without swapping; 4 GiB where the system does not say.

    Linux: ``MemAvailable`` and, in a container or a batch job, what is left of the limits of the
    control groups (v2). Elsewhere: half of the physical memory.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10
    except (OSError, StopIteration):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, ValueError, OSError):  # no sysconf on Windows
            return 2**32
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        mine = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        mine = ""
    group = CONTROL_GROUPS / mine
    # A limit counts for all groups below it.
    above = [above for above in group.parents if above.is_relative_to(CONTROL_GROUPS)]
    return min([free, *(left_in_group(folder) for folder in (group, *above))])


def left_in_group(folder: Path) -> int:
    """Bytes left of the limit of a control group, if any; what its file cache takes is free."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        rows = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
    except (OSError, ValueError):
        return sys.maxsize
    cache = sum(int(value) for name, value in rows if name == "inactive_file")
    return sys.maxsize if limit == "max" else max(int(limit) - used + cache, 0)
