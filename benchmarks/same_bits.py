"""One study in many ways, and one number for all that each left behind: they must be equal.

    python -m benchmarks.same_bits

In one process, in worker processes, on Ray with 1, 2 and 3 workers, on SQLite and PostgreSQL.
"""

import sys
import tempfile
import time
from pathlib import Path

WAYS = {
    "in one process": ("--workers", "0"),
    "2 worker processes": ("--workers", "2"),
    "Ray, 1 worker": ("--executor", "ray", "--workers", "1"),
    "Ray, 2 workers": ("--executor", "ray", "--workers", "2"),
    "Ray, 3 workers": ("--executor", "ray", "--workers", "3"),
}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from databases import start_server, stop_server
    from endings import ending, fingerprint_of
    from studies_for_tests import run_ok, write_recipe

    found, server = set(), start_server()
    print(f"{'executor':20} {'database':12} {'results, journal, weights':28} {'seconds':>7}")
    try:
        with tempfile.TemporaryDirectory(prefix="autonat-bits-") as name:
            for way, options in WAYS.items():
                for database in ("SQLite", "PostgreSQL"):
                    folder = Path(name) / f"{way}-{database}".replace(" ", "-")
                    folder.mkdir()
                    url = server.new_database() if database == "PostgreSQL" else f"sqlite:///{folder / 'study.db'}"
                    artifacts, began = folder / "artifacts", time.monotonic()
                    run_ok("run", write_recipe(folder), "--db", url, "--artifacts", artifacts, *options)
                    found.add(fingerprint_of(ending(url, artifacts)))
                    number = fingerprint_of(ending(url, artifacts))
                    print(f"{way:20} {database:12} {number:28} {time.monotonic() - began:7.1f}", flush=True)
    finally:
        stop_server(server)
    print("all equal" if len(found) == 1 else f"{len(found)} DIFFERENT")
    sys.exit(len(found) != 1)


if __name__ == "__main__":
    main()
