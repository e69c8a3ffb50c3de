"""Who may import whom, and what a start of the command line costs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "autonat", "dashboards")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path, *, everywhere):
    """First parts of imported names; only those outside functions unless `everywhere`."""
    found = set()

    def visit(node):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checks_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if everywhere or not (inside or checks_types):
            for child in ast.iter_child_nodes(node):
                visit(child)

    visit(ast.parse(path.read_text()))
    return found


def of(package):
    return [path for path in MODULES if path.is_relative_to(ROOT / package)]


def test_imports_are_seen():
    assert len(MODULES) > 30
    assert {"torch", "autonat", "models"} <= imports(ROOT / "autonat" / "memo.py", everywhere=False)
    cli = ROOT / "autonat" / "cli" / "shared.py"
    assert "dashboards" in imports(cli, everywhere=True) - imports(cli, everywhere=False)


@pytest.mark.parametrize("path", of("models"), ids=str)
def test_models_know_nothing_of_the_rest(path):
    assert not imports(path, everywhere=True) & {"autonat", "dashboards", "studies"}


@pytest.mark.parametrize("path", of("autonat"), ids=str)
def test_autonat_shows_nothing(path):
    assert "dashboards" not in imports(path, everywhere=False)


@pytest.mark.parametrize("path", of("dashboards"), ids=str)
def test_dashboards_compute_nothing(path):
    assert not imports(path, everywhere=True) & {"torch", "ray"}


def test_ray_is_imported_by_the_executor_inside_functions():
    users = [path for path in MODULES if "ray" in imports(path, everywhere=True)]
    assert ROOT / "autonat" / "execution" / "ray_executor.py" in users
    assert all(path.parent == ROOT / "autonat" / "execution" and path.name.startswith("ray_") for path in users)
    assert [path for path in MODULES if "ray" in imports(path, everywhere=False)] == []


HEAVY = {"torch", "ray", "optuna", "sqlalchemy", "pandas", "scipy", "sklearn", "plotly", "alembic", "omegaconf"}


def loaded_after(statement):
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_the_command_line_starts_light():
    loaded = loaded_after("import autonat.cli")
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_studies_are_listed_and_shown_without_torch(tmp_path):
    """The ledger included: whoever looks after a study does not wait for networks."""
    path = tmp_path / "results.db"
    loaded_after(f"from autonat.storage.store import Store; Store.open({str(path)!r}).claim('s', '{{}}')")
    run = "from autonat.cli import app; app({}, standalone_mode=False)"
    for command in (["list"], ["show", "s", "--tasks"], ["stop", "--help"]):
        code = run.format([*command, "--db", str(path)] if command[-1] != "--help" else command)
        loaded = loaded_after(f"import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): {code}")
        assert not loaded & (HEAVY - {"sqlalchemy"}), command


def test_a_worker_process_is_light_until_it_works():
    assert "torch" not in loaded_after("import autonat.execution.executor")
    assert not loaded_after("import autonat.execution.ray_worker") & {"torch", "ray"}


def test_an_executor_is_light_until_it_works():
    """A worker process imports it before it can ignore Ctrl-C."""
    assert "optuna" not in loaded_after("import autonat.execution.executor, autonat.execution.ray_executor")


def test_a_report_is_made_without_torch():
    loaded = loaded_after("import dashboards.report")
    assert "plotly" in loaded
    assert not loaded & {"torch", "ray"}


ALONE = """
import importlib, os, sys
import jinja2, pandas, PIL.Image, plotly.graph_objects, plotly.offline, pydantic, rich.progress, safetensors.torch
import scipy.stats, sqlalchemy, torch, typer
failed = 0
for name in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    failed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
sys.exit(failed != 0)
"""


@pytest.mark.slow
def test_every_module_imports_alone():
    """Each in a process where nothing of this project is loaded yet, so that no circle depends on the order."""
    names = []
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__" and "migrations" not in parts:
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert {"autonat.cli", "models.enat", "dashboards.report"} <= set(names)
    done = subprocess.run([sys.executable, "-c", ALONE, *names], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    broken = subprocess.run(
        [sys.executable, "-c", ALONE, "autonat.no_such_module"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert broken.returncode == 1
