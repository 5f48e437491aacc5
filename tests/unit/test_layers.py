"""The layers of the source tree: imports point one way, and each boundary has one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    ".".join(path.relative_to(ROOT / base).with_suffix("").parts).removesuffix(".__init__"): path
    for base in ("client", "daemon")
    for path in (ROOT / base).rglob("*.py")
}

# From the top down. A module may import from its own layer and from those below it.
LAYERS = (
    ("simplerctl",),
    ("simplerd",),
    ("simpler.executor.aio", "simpler.executor.joblib_backend"),
    ("simpler.executor.executor",),
    ("simpler.executor.view",),
    ("simpler.executor.call_map",),
    ("simpler.executor.session_backend", "simpler.executor.loky_backend", "simpler.executor.backend"),
    ("simpler.executor.loky_worker",),
    ("simpler.executor.engine.call_engine",),
    ("simpler.executor.engine.transport", "simpler.executor.engine.collector"),
    ("simpler.executor.engine.session_pool",),
    ("simpler.executor.engine.worker_pool",),
    ("simpler.executor.engine.dispatcher",),
    (
        "simpler.executor.observers",
        "simpler.executor.settings",
        "simpler.executor.chunk_sizes",
        "simpler.executor.progress",
        "simpler.executor.broken",
        "simpler.executor.executor_life",
    ),
    ("simpler.executor.future",),
    ("simpler.executor.engine.claim",),
    ("simpler.executor.in_worker.call_runner",),
    (
        "simpler.executor.in_worker.surroundings",
        "simpler.executor.in_worker.keeper",
        "simpler.executor.in_worker.import_scope",
    ),
    ("simpler.executor.calls.placement",),
    ("simpler.executor.calls.call_record", "simpler.executor.calls.spill"),
    (
        "simpler.executor.calls.pickling",
        "simpler.executor.calls.rebuilding",
        "simpler.executor.calls.failure",
        "simpler.executor.calls.metrics",
        "simpler.executor.calls.options",
        "simpler.executor.calls.captured_output",
    ),
    ("simpler.executor.calls.by_value",),
    ("simpler.dist_worker",),
    ("simpler.inner_callables",),
    ("simpler.inner_worker",),
    ("simpler.worker",),
    ("simpler.worker_memory",),
    ("simpler.lanes",),
    ("simpler.tree", "simpler.local_workers", "simpler.remote_children", "simpler.done_callbacks"),
    ("simpler.registrar",),
    ("simpler.remote", "simpler.orchestrator", "simpler.chip_memory"),
    (
        "simpler.sub_worker",
        "simpler.chip_worker",
        "simpler.pool",
        "simpler.spawner",
        "simpler.spawn",
        "simpler.succession",
    ),
    ("simpler.worker_process", "simpler.children", "simpler.deadline_watch"),
    ("simpler.child_process", "simpler.child_output", "simpler.output_report", "simpler.oom", "simpler.tenancy"),
    ("simpler.journal_output",),
    ("simpler.callable_question",),
    (
        "simpler.run",
        "simpler.push_mailbox",
        "simpler.trace",
        "simpler.registry",
        "simpler.registration",
        "simpler.targets",
        "simpler.packing",
        "simpler.group",
        "simpler.run_tensors",
        "simpler.worker_stats",
        "simpler.subtree",
    ),
    (
        "simpler.args",
        "simpler.callables",
        "simpler.callable_loading",
        "simpler.device",
        "simpler.device_buffers",
        "simpler.device_memory",
        "simpler.worker_options",
        "simpler.call_config",
        "simpler.worker_life",
    ),
    (
        "simpler.callable_handle",
        "simpler.chip_callable",
        "simpler.content",
        "simpler.descriptors",
        "simpler.import_target",
    ),
    ("simpler.region", "simpler.wire", "simpler.spawn_protocol"),
    ("simpler.completion_stream",),
    ("simpler.graph_run", "simpler.callable_table", "simpler.result_record", "simpler.pushes"),
    ("simpler.imported_memory",),
    ("simpler.submission", "simpler.heap"),
    ("simpler.region_records", "simpler.mapping", "simpler.chrome_trace"),
    ("simpler.buffer_handle",),
    ("simpler.tensor", "simpler.error_record", "simpler.byte_views", "simpler.unserializable"),
    (
        "simpler.errors",
        "simpler.limits",
        "simpler.plain_text",
        "simpler.journal",
        "simpler.user_traceback",
        "simpler.forks",
        "simpler.environment",
        "simpler.control_group",
        "simpler._native",
    ),
)

# Packages whose modules have layers of their own.
PACKAGES = {
    name
    for name, path in SOURCES.items()
    if path.name == "__init__.py" and any(each.startswith(f"{name}.") for names in LAYERS for each in names)
}


def layer_of(module: str) -> int | None:
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    return None


def imports(path: Path) -> Iterator[str]:
    """What a file imports, inside functions as well; what only a type checker reads is left out."""
    tree = ast.parse(path.read_text())
    only_for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            only_for_types.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in only_for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_layer() -> None:
    homeless = [name for name in SOURCES if layer_of(name) is None and name not in PACKAGES]
    assert not homeless


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_of_layers_loads_none_of_them_by_itself(package: str) -> None:
    assert not [name for name in imports(SOURCES[package]) if name.startswith("simpler")]


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - PACKAGES))
def test_imports_point_down(module: str) -> None:
    mine = layer_of(module)
    assert mine is not None
    for name in imports(SOURCES[module]):
        theirs = layer_of(name)
        assert theirs is None or theirs >= mine, f"{module} imports {name}, which is above it"


def test_the_library_knows_nothing_of_the_daemon_and_the_command_line_nothing_of_either() -> None:
    for module, path in SOURCES.items():
        found = set(imports(path))
        if module.startswith("simpler.") or module == "simpler":
            assert not any(name.startswith(("simplerd", "simplerctl")) for name in found), module
        if module.startswith("simplerctl"):
            assert not any(name.startswith(("simplerd", "simpler.worker")) for name in found), module


def test_only_the_bindings_touch_the_native_module() -> None:
    users = {module for module, path in SOURCES.items() if any("_native" in name for name in imports(path))}
    assert users == {
        "simpler.region",
        "simpler.heap",
        "simpler.graph_run",
        "simpler.completion_stream",
        "simpler.executor.in_worker.keeper",
        "simpler.callable_table",
        "simpler.submission",
        "simpler.region_records",
        "simpler.mapping",
        "simpler.device",
    }


def test_only_the_spawner_forks() -> None:  # L5
    users = {module for module, path in SOURCES.items() if "os.fork(" in path.read_text()}
    assert users == {"simpler.spawn", "simpler.child_process"}


def test_the_daemon_process_loads_no_pickle_and_no_numpy() -> None:  # nor what few daemons need
    unwanted = {"pickle", "_pickle", "cloudpickle", "numpy", "cryptography", "prometheus_client", "h11"}
    program = f"import sys, simplerd.__main__, simplerd.daemon; print(*({unwanted!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == []


def test_a_verb_loads_nothing_of_the_others() -> None:
    program = (
        "import sys; from simplerctl.__main__ import cli; cli.commands['status']\n"
        "others = {'simplerctl.doctor_verb', 'tarfile', 'rich', 'cryptography', 'trio', 'numpy'}\n"
        "print(*(others & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == []
