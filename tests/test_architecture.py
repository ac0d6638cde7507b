"""The rules on folders, imports and file sizes, read from the source text.

Nothing is imported here except in the last tests, so a broken module does not hide a broken rule.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("adsim", "agents", "predictors", "scenarios")
MAX_LINES = 400

# Bottom to top: a module of adsim imports only modules that stand before it. A module that is not
# listed fails the test; a listed module need not exist. `datasets` is one entry: its modules may
# import each other.
ADSIM_ORDER = (
    "types",
    "datasets",
    "scores",
    "curves",
    "market_config",
    "config",
    "rng",
    "delays",
    "effects",
    "structure",
    "traffic",
    "funnel",
    "feedback",
    "kernels",
    "clearing",
    "market",
    "source",
    "replay",
    "log",
    "ledger",
    "credit",
    "outcome",
    "value_source",
    "world",
    "oracle",
    "history",
    "rendering",
    "pacing_features",
    "observation",
    "env",
    "vector_env",
    "clicklog",
    "impressionlog",
    "purchaselog",
    "compare",
    "checks",
)

# What the other folders may import of the project, besides themselves. `scenarios` may import all.
ALLOWED = {
    "predictors": {
        *("adsim.types", "adsim.config", "adsim.log", "adsim.clicklog", "adsim.purchaselog"),
        "adsim.impressionlog",
    },
    "agents": {"adsim.types"},
}

# Slow to import: only inside functions of adsim, so that `import adsim` stays fast.
HEAVY = ("matplotlib", "pandas", "scipy.stats", "torch")


class Import(NamedTuple):
    """One imported name of a source file."""

    line: int  # 1-based
    target: str  # dotted: module, or module.name for `from module import name`
    at_load: bool  # runs when the module is loaded (not in a function, not for type checkers only)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _imports(node: ast.AST, at_load: bool = True) -> Iterator[Import]:
    """All imports below `node`. Relative ones keep their leading dots."""
    match node:
        case ast.Import():
            for alias in node.names:
                yield Import(node.lineno, alias.name, at_load)
        case ast.ImportFrom():
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield Import(node.lineno, f"{module}.{alias.name}", at_load)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            for child in ast.iter_child_nodes(node):
                yield from _imports(child, at_load=False)
        case ast.If() if _is_type_checking(node.test):
            for child in node.body:
                yield from _imports(child, at_load=False)
            for child in node.orelse:
                yield from _imports(child, at_load)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _imports(child, at_load)


def _within(target: str, module: str) -> bool:
    return target == module or target.startswith(module + ".")


def _adsim_module(target: str) -> str:
    """`adsim.types.Window` -> `types`; the package itself (`adsim`, `adsim.__version__`) -> ``."""
    parts = target.split(".")
    return parts[1] if len(parts) > 1 and not parts[1].startswith("__") else ""


def _import_faults(path: str, source: str) -> list[str]:
    """Breaches of the import rules by a file; `path` is relative to the root of the repository."""
    package, *rest = Path(path).with_suffix("").parts
    own = rest[0]
    faults = []
    for line, target, at_load in _imports(ast.parse(source)):
        top = target.split(".")[0]
        if target.startswith("."):
            faults.append(f"{path}:{line}: relative import {target}")
        elif package == "adsim":
            faults += [f"{path}:{line}: {why}" for why in _adsim_faults(own, target, at_load)]
        elif package in ALLOWED and top in {*PACKAGES} - {package}:
            allowed = any(_within(target, module) for module in ALLOWED[package])
            faults += [] if allowed else [f"{path}:{line}: {package} must not import {target}"]
    return faults


def _adsim_faults(own: str, target: str, at_load: bool) -> Iterator[str]:
    top = target.split(".")[0]
    if top in {"agents", "predictors", "scenarios", "torch"}:
        yield f"adsim must not import {target}"
    if at_load and any(_within(target, module) for module in HEAVY):
        yield f"{target} is imported when adsim is loaded: import it in the function"
    if top != "adsim" or own == "__init__":
        return
    imported = _adsim_module(target)
    if imported == own == "datasets":
        return
    if imported not in ADSIM_ORDER:
        yield f"{target} is not a module listed in ADSIM_ORDER"
    elif own in ADSIM_ORDER and ADSIM_ORDER.index(imported) >= ADSIM_ORDER.index(own):
        yield f"{own} must not import {imported}, which does not stand before it"


def _path_edits(source: str) -> list[int]:
    """Lines that touch the module search path."""
    names = {"sys.path", "site.addsitedir"}
    tree = ast.parse(source)
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in names
    ]
    return lines + [line for line, target, _ in _imports(tree) if target in names]


def _python_files(*folders: str) -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    )


def _setuptools_table() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]


@pytest.mark.parametrize("path", _python_files(*PACKAGES))
def test_imports_go_downwards(path):
    assert _import_faults(path, (ROOT / path).read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "num_faults"),
    [
        ("adsim/log.py", "from adsim.types import Window", 0),
        ("adsim/log.py", "from adsim import types", 0),
        ("adsim/log.py", "from adsim.env import AuctionEnv", 1),
        ("adsim/log.py", "def f():\n    import adsim.env", 1),  # deferring does not help
        ("adsim/log.py", "from adsim.log import EventLog", 1),
        ("adsim/log.py", "import adsim", 1),
        ("adsim/log.py", "from adsim import __version__", 1),
        ("adsim/log.py", "from adsim.unlisted import x", 1),
        ("adsim/log.py", "from .types import Window", 1),
        ("adsim/log.py", "from . import types", 1),
        ("adsim/log.py", "import pandas as pd", 1),
        ("adsim/log.py", "from scipy import special, stats", 1),
        ("adsim/log.py", "class C:\n    import matplotlib.pyplot", 1),
        ("adsim/log.py", "def f():\n    import pandas as pd", 0),
        ("adsim/log.py", "if TYPE_CHECKING:\n    import pandas as pd", 0),
        ("adsim/log.py", "def f():\n    import torch", 1),
        ("adsim/log.py", "def f():\n    import scenarios.build", 1),
        ("adsim/__init__.py", "from adsim.env import AuctionEnv", 0),
        ("adsim/datasets/bat.py", "from adsim.datasets.csv import rows", 0),
        ("adsim/datasets/bat.py", "from adsim.checks import check_agent", 1),
        ("agents/value.py", "from adsim.types import Campaign\nfrom agents.base import x", 0),
        ("agents/value.py", "from adsim.typesetting import Campaign", 1),
        ("agents/value.py", "from adsim.config import WorldConfig", 1),
        ("agents/value.py", "import adsim", 1),
        ("agents/value.py", "import predictors", 1),
        ("predictors/tesla.py", "import torch\nfrom adsim.clicklog import ClickLog", 0),
        ("predictors/tesla.py", "from adsim.world import World", 1),
        ("predictors/tesla.py", "from agents.value import ValueAgent", 1),
        ("predictors/tesla.py", "from scenarios import load", 1),
        ("scenarios/build.py", "import torch, pandas, adsim, agents, predictors", 0),
    ],
)
def test_import_rules_find_breaches(path, source, num_faults):
    assert len(_import_faults(path, source)) == num_faults


def test_adsim_modules_are_listed():
    modules = {Path(path).with_suffix("").parts[1] for path in _python_files("adsim")}
    assert sorted(modules - {"__init__"} - set(ADSIM_ORDER)) == []


@pytest.mark.parametrize("path", _python_files(*PACKAGES, "benchmarks"))
def test_source_file_is_short(path):
    num_lines = len((ROOT / path).read_text("utf-8").splitlines())
    assert num_lines <= MAX_LINES


@pytest.mark.parametrize("path", _python_files(*PACKAGES, "benchmarks", "tests"))
def test_search_path_is_left_alone(path):
    assert _path_edits((ROOT / path).read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import sys\nsys.path.insert(0, 'x')", [2]),
        ("import sys\nsys.path += ['x']", [2]),
        ("from sys import path", [1]),
        ("import os\nos.path.join('a', 'b')", []),
    ],
)
def test_search_path_rule_finds_edits(source, lines):
    assert _path_edits(source) == lines


def test_package_list_equals_folders():
    declared = set(_setuptools_table()["packages"])
    folders = {Path(path).parent.as_posix() for path in _python_files(*PACKAGES)}
    assert {folder.replace("/", ".") for folder in folders} - declared == set()
    assert [name for name in declared if not (ROOT / name.replace(".", "/")).is_dir()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_package_ships_type_marker(package):
    assert (ROOT / package / "py.typed").is_file()
    assert "py.typed" in _setuptools_table()["package-data"][package]


@pytest.mark.skipif(
    not (ROOT / "adsim" / "__init__.py").exists(), reason="adsim/__init__.py is not there yet"
)
def test_import_adsim_loads_nothing_heavy():
    code = f"import sys, adsim; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert loaded.stdout.split() == []
