"""Per method: equation, function, test. What the tables of the documentation name is there."""

import importlib
import re

import pytest
from documentation import ROOT

from predictors import CORRECTORS, PREDICTORS

PAGES = [ROOT / "docs" / f"{name}.md" for name in ("predictors", "gmv", "scenes", "correctors")]
_CELL = re.compile(r"(?<!\\)\|")


def tables(text):
    """Tables with the columns `function` and `test`: lists of rows, {column: cell}."""
    found, header = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in _CELL.split(line)[1:-1]] if line[:1] == "|" else None
        if cells is None:
            header = None
        elif header is None:
            header = cells
            if {"function", "test"} <= set(header):
                found.append([])
        elif not set(line) <= set("|-") and {"function", "test"} <= set(header):
            found[-1].append(dict(zip(header, cells, strict=True)))
    return found


def names(cell):
    return re.findall(r"`([\w.]+)`", cell)


def resolve(name):
    """The module, class or function of a name, dotted from the folder `predictors` on."""
    module, *rest = name.split(".")
    found = importlib.import_module(f"predictors.{module}")
    for part in rest:
        found = getattr(found, part)
    return found


ROWS = [row for page in PAGES for table in tables(page.read_text()) for row in table]
TESTS = {
    name
    for path in ROOT.glob("tests/predictors/test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: next(iter(row.values()))[:60])
def test_function_and_test_of_an_equation_exist(row):
    functions, tests = names(row["function"]), names(row["test"])
    assert functions
    assert tests
    assert all(resolve(name) for name in functions)
    assert set(tests) <= TESTS


def test_every_page_has_a_table():
    assert [page.name for page in PAGES if not tables(page.read_text())] == []


def test_every_method_has_an_equation():
    told = {name for row in ROWS for name in names(next(iter(row.values())))}
    of_its_own = {"tesla", "reader"}  # tables of their own, step by step
    assert (PREDICTORS.keys() | CORRECTORS.keys()) - told <= of_its_own
    assert {"tesla", "reader"} <= {
        name.split(".")[0] for row in ROWS for name in names(row["function"])
    }


def test_tables_are_read_with_their_columns():
    text = (
        "| step | function | test |\n|---|---|---|\n| a \\| b | `gmv.mixed` | `test_x` |\n\nend\n"
    )
    assert tables(text) == [[{"step": "a \\| b", "function": "`gmv.mixed`", "test": "`test_x`"}]]
    with pytest.raises(AttributeError):
        resolve("gmv.mixture")
