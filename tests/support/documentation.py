"""The pages of the documentation, their command lines and their examples."""

import shlex
from pathlib import Path

from pages import command_lines, python_blocks
from threads import one_thread
from typer.main import get_command

from predictors import PREDICTORS
from scenarios.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/*.md")),
]
ADSIM_LINES = [
    (page.name, line) for page in PAGES for line in command_lines(page.read_text(), "adsim")
]
MAKE_LINES = [
    (page.name, line) for page in PAGES for line in command_lines(page.read_text(), "make")
]


def parse(line):
    """Parsed arguments of an `adsim` command line; nothing is run. Raises on a wrong one."""
    _, *words = shlex.split(line)
    command, path = get_command(app), []
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    return path, command.make_context(" ".join(path), words).params


def run_examples(page, capsys):
    """Runs the examples of a page in their order.

    Returns:
        Their variables, the lines that each printed, and the predictors they registered.
    """
    before, space, printed = dict(PREDICTORS), {}, []
    try:
        with one_thread():
            for number, example in enumerate(python_blocks(page.read_text())):
                exec(compile(example, f"{page.name}, example {number}", "exec"), space)
                printed.append(capsys.readouterr().out.splitlines())
    finally:  # one registers a method of its own
        new = PREDICTORS.keys() - before.keys()
        for name in new:
            del PREDICTORS[name]
    return space, printed, new
