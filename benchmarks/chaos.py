"""Faults dealt to studies on a cluster of three imitated nodes: nothing may be lost, repeated or different.

    python -m benchmarks.chaos [--faults 50] [--seed 0] [--kinds worker,node,driver,database,disk]

Kills workers, nodes and the driver with SIGKILL, stops PostgreSQL in the midst of things and fills the artifacts' disk
(where this system lets us mount a small one), while a tiny study of real digits runs; whatever ended is started again.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="worker,node,driver,database,disk")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from chaos import Chaos, undisturbed
    from databases import start_server, stop_server
    from ray_clusters import Nodes

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autonat-chaos-") as name:
        folder = Path(name)
        expected = undisturbed(folder / "undisturbed")
        server, nodes = start_server(), Nodes(3)
        try:
            chaos = Chaos(folder, nodes, server, arguments.seed, tuple(arguments.kinds.split(",")))
            tally = chaos.run(arguments.faults, expected)
        finally:
            nodes.close()
            stop_server(server)
    print("\n".join(tally.lines()))
    print(f"seconds               {time.monotonic() - began:.0f}")
    for line in tally.errors:
        print(line)
    sys.exit(bool(tally.differences or tally.results_repeated or tally.stuck))


if __name__ == "__main__":
    main()
