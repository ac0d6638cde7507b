"""Which source code is at work."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def git_commit() -> str | None:
    """The commit of the source checkout, if it is one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
