"""PostgreSQL: a server that goes away, and the same study in the same bits as on SQLite."""

import threading
import time

import pytest
from databases import ask, start_server, stop_server
from studies_for_tests import run_cli, run_ok, tiny_recipe, wait_for, write_recipe

from autonat.errors import UserError
from autonat.search.alternation import start_of
from autonat.specs import Evaluation
from autonat.storage.store import Store

LAB, PAIR = start_of(tiny_recipe())
EVALUATION = Evaluation(0.1, 0.01, 40, "FD", 1, (0.1, 0.2))


@pytest.fixture
def own_server(postgres):
    """A server that a test may stop."""
    server = start_server()
    yield server
    stop_server(server)


def test_a_restart_of_the_server_is_waited_for(own_server, tmp_path):
    url = own_server.new_database()
    store = Store.open(url, tmp_path)
    study = store.claim("s", "{}")
    recorded, failures, stopped = [], [], threading.Event()

    def work():
        try:
            for seed in range(200):
                if seed == 100:
                    stopped.wait(60)  # so that there is work left, however fast it goes
                store.record(LAB.evaluation(PAIR, 40, seed), EVALUATION, 1.0)
                store.heartbeat(study, 1.0)
                recorded.append(seed)
        except BaseException as error:
            failures.append(error)

    driver = threading.Thread(target=work)
    driver.start()
    wait_for(lambda: ask(url, "SELECT count(*) FROM results")[0][0] > 20, "the first results")
    own_server.stop("immediate")
    stopped.set()
    time.sleep(0.2)
    assert driver.is_alive()
    assert 20 <= len(recorded) <= 100
    own_server.start()
    driver.join()
    assert failures == []
    assert len(recorded) == 200
    assert ask(url, "SELECT count(*) FROM results") == [(200,)]
    store.close()


def test_a_server_that_stays_away_is_one_line(own_server, tmp_path):
    url = own_server.new_database()
    store = Store.open(url, tmp_path)
    store.database.patience_seconds = 0.3
    own_server.stop("immediate")
    before = time.monotonic()
    with pytest.raises(UserError) as caught:
        store.studies()
    assert "\n" not in str(caught.value)
    assert 0.1 < time.monotonic() - before < 30
    with pytest.raises(UserError) as caught:
        Store.open(url, tmp_path)  # nobody waits for a server that was never there
    assert "\n" not in str(caught.value)
    own_server.start()
    store.close()


def test_a_database_that_is_not_there(postgres, tmp_path):
    for readonly in (False, True):
        with pytest.raises(UserError) as caught:
            Store.open(postgres.url("nowhere"), tmp_path, readonly=readonly)
        assert "createdb" in str(caught.value)
    url = postgres.new_database()
    with pytest.raises(UserError, match="holds no autonat studies"):
        Store.open(url, readonly=True)
    assert ask(url, "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'") == [(0,)]
    ask(url, "CREATE TABLE precious (x int)")
    with pytest.raises(UserError, match="something else"):
        Store.open(url, tmp_path)


def end_of(url):
    """All that a study leaves in a database, but for times and places."""
    return [
        ask(url, statement)
        for statement in (
            "SELECT name, recipe, state, error, summary FROM studies",
            "SELECT fingerprint, kind, spec, result, images, artifact_sha256 FROM results ORDER BY fingerprint",
            "SELECT number, phase, round, purpose, fingerprint, decision FROM journal ORDER BY number",
            "SELECT kind, fingerprint, sum(images) FROM tasks GROUP BY 1, 2 ORDER BY 1, 2",
        )
    ]


@pytest.mark.slow
def test_same_bits_on_both_databases_with_any_number_of_workers(postgres, tmp_path):
    recipe = write_recipe(tmp_path)
    ends = []
    for number, (url, workers) in enumerate(
        [(f"sqlite:///{tmp_path / 'a.db'}", 0), (postgres.new_database(), 0), (postgres.new_database(), 2)]
    ):
        place = tmp_path / f"artifacts{number}"
        run_ok("run", recipe, "--db", url, "--workers", workers, "--artifacts", place)
        ends.append(end_of(url))
        for command in (["list"], ["show", "tiny"], ["best", "tiny"], ["verify", "tiny", "--count", 2, "--workers", 0]):
            assert run_cli(*command, "--db", url)[0::2] == (0, ""), command
    assert ends[0][0][0][2] == "finished"
    assert ends[1] == ends[0]
    assert ends[2] == ends[0]
