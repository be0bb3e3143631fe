"""Print the commands and programs of a README, in order, as one shell script."""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
for language, code in re.findall(r"^```(bash|python)\n(.*?)^```", text, re.M | re.S):
    if language == "python":
        code = f"python - <<'END' || exit 1\n{code}END\n"
    else:
        # `set -e` lets a failure in the middle of `a && b` pass.
        code = re.sub(r"(?<!\\)\n", " || exit 1\n", code)
    print(code)
