"""The commands of README and pages, which are run in CI, in other shells than that of CI."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = "\n".join(
    path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.md"))]
)
BLOCKS = "".join(re.findall(r"^```(?:bash|console)\n(.*?)^```", TEXT, re.M | re.S))
COMMANDS = [
    *BLOCKS.replace("\\\n", "").splitlines(),
    *re.findall(r"`((?:careamics-\w+|pip|python) [^`]+)`", TEXT),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_shell_would_expand_is_quoted(command: str) -> None:
    """In zsh, ``[`` and ``?`` are patterns; in fish, ``{``; in PowerShell, a comma splits."""
    assert len(COMMANDS) > 25
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", command)
    assert not set(bare) & set("*?[]{}()~$,;<>|!^@#`'\"\\"), command
    assert not re.search(r"(^| )=", bare), command
