"""What stands on a page of the documentation."""

import re

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(text):
    """Bodies of the fenced Python blocks."""
    return [body for language, body in _FENCE.findall(text) if language == "python"]


def text_blocks(text):
    """Lines of the fenced blocks of plain text: what examples print."""
    return [body.splitlines() for language, body in _FENCE.findall(text) if language == "text"]


def command_lines(text, program):
    """Lines of the code blocks, fenced or indented, that start with a program."""
    fenced = [line for language, body in _FENCE.findall(text) for line in body.splitlines()]
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    lines = (line.split("#")[0].split(">")[0].strip() for line in [*fenced, *indented])
    return [line for line in lines if line.split(" ")[0].removeprefix(".venv/bin/") == program]


def section(text, heading):
    """What stands below a heading of second level."""
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
