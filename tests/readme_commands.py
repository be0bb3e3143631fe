"""Print the commands and programs of a README, in order, as one shell script.

``readme_commands.py README.md [FIRST [STOP]]``: only those from the first to before the last.
"""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
first, stop = [*map(int, sys.argv[2:]), *(0, 1000)[len(sys.argv) - 2 :]]
blocks = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.M | re.S)
for language, code in blocks[first:stop]:
    if language == "python":
        code = f"python - <<'END' || exit 1\n{code}END\n"
    else:
        # `set -e` lets a failure in the middle of `a && b` pass.
        code = re.sub(r"(?<!\\)\n", " || exit 1\n", code)
    print(code)
