"""What the documents say: the examples in them run, and the files, symbols and commands they name exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import state_diagrams
import verb_schemas

from simplerd.admin.jsonrpc import Code
from simplerd.admin.methods import METHODS
from simplerd.foreground import ForegroundDaemon

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = "native|cffi_build|client|daemon|systemd|tests|examples|benchmarks|docs"
LINK = re.compile(r"\]\(([^)#]+)\)")
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
SYMBOL = re.compile(r"`([\w.]+)` in `([\w./]+)`")
"""How a page names a symbol: `Class.method` in `path/below/the/root.py`."""
MAKE = re.compile(r"`make ([a-z]+)`|^make ([a-z]+)", re.MULTILINE)

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.mark.slow
def test_the_readme_examples_print_what_they_say() -> None:
    local, remote, tree, executor = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    promised = re.findall(r"print\(.*\)  # (.*)", local + remote + tree + executor)
    assert len(promised) == 6
    with ForegroundDaemon() as daemon:
        source = local + remote.replace("unix:/run/simplerd/session.sock", daemon.endpoint) + tree + executor
        done = subprocess.run(
            [sys.executable, "-"], input=source, capture_output=True, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stdout.splitlines()) == (0, promised), done.stderr


@pytest.mark.slow
def test_the_device_example_prints_what_it_says() -> None:
    [source] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/devices.md").read_text(), re.DOTALL)
    [promised] = re.findall(r"print\(.*\)  # (.*)", source)
    done = subprocess.run([sys.executable, "-"], input=source, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, promised), done.stderr


@pytest.mark.slow
def test_the_executor_examples_print_what_they_say() -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs/executor.md").read_text(), re.DOTALL)
    assert len(programs) == 4
    for program in programs:
        promised = re.findall(r"print\(.*\)  # (.*)", program)
        done = subprocess.run(
            [sys.executable, "-"], input=program, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, [line.strip() for line in done.stdout.splitlines()]) == (0, promised), done.stderr


@each_document
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [document.parent / target for target in LINK.findall(text) if "://" not in target]
    missing = [str(path) for path in [*links, *(ROOT / name for name in PATH.findall(text))] if not path.exists()]
    assert not missing


@each_document
def test_commands_are_in_the_makefile(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {first or second for first, second in MAKE.findall(document.read_text())}
    assert named <= targets


def test_the_operators_page_has_every_method_error_and_verb() -> None:
    page = (ROOT / "docs/operators.md").read_text()
    table = page[page.index("\n| method |") :].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)) == set(METHODS)
    assert not [code for code in Code if f"| {code.value} | " not in page]
    verbs = [" ".join(words) for words, _ in verb_schemas.verbs()]
    page = re.sub(r"simplerctl (\w+) (\w+)\|", r"simplerctl \1 \2; simplerctl \1 ", page)
    assert not [verb for verb in verbs if not re.search(rf"(?:simplerctl |`){verb}\b", page)]


def test_state_diagrams_are_those_of_the_code() -> None:
    assert state_diagrams.PAGE.read_text() == state_diagrams.page(), "run python tests/docs/state_diagrams.py"


@pytest.mark.parametrize("page", ["architecture.md", "graph.md"])
def test_symbols_that_a_page_names_exist(page: str) -> None:
    named = SYMBOL.findall((ROOT / "docs" / page).read_text())
    assert len(named) >= 20
    missing = [f"{symbol} in {path}" for symbol, path in named if not defines(ROOT / path, symbol)]
    assert not missing


def defines(path: Path, symbol: str) -> bool:
    """Whether the file defines it: a function, class, constant, method (Class.method), C function, type or macro."""
    if not path.is_file():
        return False
    text = path.read_text()
    if path.suffix == ".py":
        return symbol in python_symbols(text)
    return re.search(rf"^\w.*\b{symbol}\(|^}} {symbol};|^#define {symbol}\b", text, re.MULTILINE) is not None


def python_symbols(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(source).body:
        found |= names(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{member}" for part in node.body for member in names(part)}
    return found


def names(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Assign():
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case _:
            return set()
