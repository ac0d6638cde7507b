"""Which source code is at work."""

import subprocess
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
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


@cache
def code_digest(*more: str) -> str:
    """Of the sources that results depend on: adsim, predictors and more packages, by name."""
    digest = sha256()
    for package in ("adsim", "predictors", *more):
        found = find_spec(package)
        assert found is not None
        for folder in found.submodule_search_locations or ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
