"""The databases that the tests run on: SQLite files, and a PostgreSQL server that the tests start themselves."""

import getpass
import importlib.util
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

# Data that need not survive a power cut, but a server that is killed.
FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=60")


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl: on the path, Debian's, or pgserver's."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    package = importlib.util.find_spec("pgserver")
    if package is not None and package.origin is not None:
        folders.append(Path(package.origin).parent / "pginstall" / "bin")
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


def _as_somebody() -> list[str]:
    """PostgreSQL refuses to run as root: the prefix of a command that runs as somebody else."""
    if os.geteuid() != 0:
        return []
    import pwd

    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if shutil.which("setpriv"):
            return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    raise OSError("no user and no setpriv to run PostgreSQL as somebody else than root")


@dataclass
class Server:
    """A PostgreSQL server on a socket in its own folder."""

    folder: Path
    bin: Path
    options: tuple[str, ...] = FAST
    count: int = 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_as_somebody(), str(self.bin / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, timeout=60)
        if done.returncode:
            raise OSError(f"{program}: {' '.join((done.stderr or done.stdout).split())}")

    def create(self) -> None:
        self.folder.chmod(0o777)
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "autonat", "-A", "trust", "-E", "UTF8", "-N")

    def start(self) -> None:
        settings = " ".join(f"-c {option}" for option in self.options)
        options = f"-k {self.folder} -c listen_addresses='' {settings}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://autonat@/{name}?host={self.folder}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        self.count += 1
        name = f"test{self.count}"
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url(name)


def start_server(options: tuple[str, ...] = FAST) -> Server:
    """A running server in a new folder. Raises OSError or ImportError, with the reason, where there can be none."""
    import psycopg  # noqa: F401

    found = binaries()
    if found is None:
        raise OSError("no initdb and pg_ctl found: install PostgreSQL, or pgserver with pip")
    # Short, as a socket's path may have 107 characters.
    server = Server(Path(tempfile.mkdtemp(prefix="autonat-pg-")), found, options)
    try:
        server.create()
        server.start()
    except BaseException:
        shutil.rmtree(server.folder, ignore_errors=True)
        raise
    return server


def stop_server(server: Server) -> None:
    try:
        server.stop("immediate")
    except OSError:  # a test stopped it
        pass
    finally:
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server for all tests of the session; they are skipped where none can be started."""
    try:
        server = start_server()
    except (OSError, ImportError, subprocess.SubprocessError) as error:
        pytest.skip(f"no PostgreSQL for {getpass.getuser()}: {error}")
    yield server
    stop_server(server)


def address_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an empty database of one kind."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'results.db'}"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """The URL of an empty database, once of each kind."""
    return address_of(request.param, request, tmp_path)


def ask(url: str, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of a statement in any database, beside whoever uses it; a changing statement is committed."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(sa.text(statement), parameters)
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


def own(url: str, study: str, pid: int, *, host: str | None = None, mark: str | None = None, age: float = 0.0) -> None:
    """Make a process the driver of a study, with a heartbeat so many seconds ago by the database's clock."""
    import socket

    from autonat.storage.ownership import mark_of

    now = datetime.now(UTC) if url.startswith("sqlite") else ask(url, "SELECT clock_timestamp()")[0][0]
    beat = now - timedelta(seconds=age)
    ask(
        url,
        "UPDATE studies SET state='running', owner_host=:host, owner_pid=:pid, owner_mark=:mark, heartbeat_at=:beat "
        "WHERE name=:study",
        host=host or socket.gethostname(),
        pid=pid,
        mark=mark_of(pid) if mark is None else mark,
        beat=beat.strftime("%Y-%m-%d %H:%M:%S.%f") if url.startswith("sqlite") else beat,
        study=study,
    )
