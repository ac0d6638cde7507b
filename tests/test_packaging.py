"""Everything that an installation brings in has an exact version in constraints.txt."""

import re
import tomllib
from importlib import metadata

from documentation import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OF_CUDA = ("nvidia-", "cuda-", "triton")  # torch brings them where no CPU build is offered


def pins():
    """{name: version} of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and line[0] != "#")
    return {canonicalize_name(name): version for name, version in pairs}


def required(requirements):
    """Names of all packages that these requirements need, one from another, if installed."""
    seen, todo = set(), [Requirement(text) for text in requirements]
    while todo:
        wanted = todo.pop()
        name, extras = canonicalize_name(wanted.name), wanted.extras or {""}
        key = (name, frozenset(extras))
        if key in seen or name == "adsim" or name.startswith(_OF_CUDA):
            continue
        try:
            below = metadata.requires(wanted.name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        seen.add(key)
        for each in map(Requirement, below):
            if not each.marker or any(each.marker.evaluate({"extra": e}) for e in extras):
                todo.append(each)
    return {name for name, _ in seen}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_package_is_pinned():
    extras = project()["optional-dependencies"]
    found = required([*project()["dependencies"], *(r for rs in extras.values() for r in rs)])
    assert len(found) > 60
    assert found - pins().keys() == set()


def test_development_brings_all_extras():
    extras = project()["optional-dependencies"]
    own = next(text for text in extras["dev"] if text.startswith("adsim["))
    assert set(re.findall(r"\w+", own)) - {"adsim"} == extras.keys() - {"dev"}
