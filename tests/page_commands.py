"""Run what the pages of the site say: ``python tests/page_commands.py notebooks/*.md``.

Blocks of Python and bash run in order, each page in an empty folder of its own. All of it happens
in this process, as importing torch anew would take seconds for each command. Commands in
``console`` blocks, which need the reader's files or several machines, are composed only.
"""

import re
import runpy
import shlex
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from types import ModuleType

from apps import compose, run


def commands(code: str) -> list[list[str]]:
    """Split a block into commands, each a list of words."""
    lines = re.sub(r"\\\n", " ", code).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def execute(words: list[str], folder: Path) -> None:
    """Run a command of a bash block."""
    program, *arguments = words
    if words[:2] == ["python", "-m"]:
        sys.argv = words[2:]
        runpy.run_module(words[2], run_name="__main__")
        return
    done = run(program.removeprefix("careamics-"), folder, *arguments, folder=None)
    if done.code:
        sys.exit(f"{shlex.join(words)}\n{done.out}\n{done.err}")


def run_page(page: Path) -> None:
    """Run the blocks of a page."""
    sys.modules["__main__"] = main = ModuleType("__main__")  # where classes of the page are found
    blocks = re.findall(
        r"^```(bash|python|console)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S
    )
    with tempfile.TemporaryDirectory() as name, chdir(name):
        for language, code in blocks:
            if language == "python":
                exec(compile(code, str(page), "exec"), main.__dict__)
                continue
            for program, *arguments in commands(code):
                if language == "bash":
                    execute([program, *arguments], Path(name))
                else:
                    compose(program.removeprefix("careamics-"), *arguments)


for argument in sys.argv[1:]:
    began = time.monotonic()
    run_page(Path(argument).absolute())
    print(f"{argument}: {time.monotonic() - began:.0f} s", flush=True)
