"""Artifacts in folders and at fsspec URLs: what was written comes back, and what is damaged is noticed."""

import contextlib
import itertools

import pytest
from studies_for_tests import tiny_recipe

from autonat.errors import UserError
from autonat.execution.executor import InProcessExecutor
from autonat.memo import Memo
from autonat.search.alternation import start_of
from autonat.specs import fingerprint
from autonat.storage.artifacts import Artifacts, file_sha256
from autonat.storage.store import Store

LAB, PAIR = start_of(tiny_recipe())
NAME = "ab" * 32
_numbers = itertools.count()


@pytest.fixture(params=["folder", "file", "memory"])
def location(request, tmp_path, monkeypatch):
    """A place for artifacts; what is remote has its cache in the test's folder."""
    monkeypatch.setenv("AUTONAT_CACHE", str(tmp_path / "cache"))
    return {
        "folder": str(tmp_path / "artifacts"),
        "file": f"file://{tmp_path / 'artifacts'}",
        "memory": f"memory://store{next(_numbers)}/artifacts",
    }[request.param]


@pytest.fixture
def remote(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTONAT_CACHE", str(tmp_path / "cache"))
    return f"memory://store{next(_numbers)}/artifacts"


def written(artifacts, content=b"weights" * 1000):
    artifacts.create()
    path = artifacts.path(NAME)
    path.write_bytes(content)
    artifacts.publish(path)
    return file_sha256(path)


def on_another_host(location, tmp_path, monkeypatch):
    """The same store seen from a host with an empty cache."""
    monkeypatch.setenv("AUTONAT_CACHE", str(tmp_path / f"cache{next(_numbers)}"))
    artifacts = Artifacts(location)
    artifacts.create()
    return artifacts


def test_what_is_published_is_found_elsewhere(location, tmp_path, monkeypatch):
    sha256 = written(Artifacts(location))
    elsewhere = on_another_host(location, tmp_path, monkeypatch)
    assert elsewhere.flaw(NAME, sha256) is None
    assert file_sha256(elsewhere.fetched(NAME)) == sha256
    assert elsewhere.flaw(NAME, "0" * 64) == "is damaged"
    assert elsewhere.flaw("cd" * 32, sha256) == "is missing"
    elsewhere.remove(NAME)
    assert on_another_host(location, tmp_path, monkeypatch).flaw(NAME, sha256) == "is missing"


def test_urls_of_files_are_folders(tmp_path):
    for prefix in ("", "file://", "local://"):
        artifacts = Artifacts(f"{prefix}{tmp_path}")
        assert (artifacts.folder, artifacts.is_remote) == (tmp_path, False)
        assert artifacts.address == str(tmp_path)
    assert Artifacts(tmp_path).folder == tmp_path


def test_a_damaged_copy_is_fetched_again(remote):
    artifacts = Artifacts(remote)
    sha256 = written(artifacts)
    artifacts.path(NAME).write_bytes(b"damaged")
    assert artifacts.flaw(NAME, sha256) is None
    assert file_sha256(artifacts.path(NAME)) == sha256


def test_a_damaged_remote_file_is_not_taken(remote, tmp_path, monkeypatch):
    import fsspec

    sha256 = written(Artifacts(remote))
    files = fsspec.filesystem("memory")
    name = f"{remote.removeprefix('memory:/')}/{NAME}.safetensors"
    files.pipe_file(name, files.cat_file(name)[:-1] + b"x")
    elsewhere = on_another_host(remote, tmp_path, monkeypatch)
    assert elsewhere.flaw(NAME, sha256) == "is damaged"
    assert not elsewhere.fetched(NAME).exists()
    assert list(elsewhere.folder.iterdir()) == []


def test_an_unknown_kind_of_url():
    for url in ("nonsense://bucket/x", "sqlite:///x"):
        with pytest.raises(UserError) as caught:
            Artifacts(url)
        assert url in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_study_with_remote_artifacts_ends_in_the_same_bits(location, tmp_path, monkeypatch):
    """Trained here, measured on another host, and trained again where the remote file is gone."""
    requests = [LAB.features, PAIR.training, LAB.evaluation(PAIR, 40, 5)]

    def fulfil(folder, place, said):
        folder.mkdir()
        with contextlib.closing(Store.open(str(folder / "results.db"), place)) as store:
            executor = InProcessExecutor(store.artifacts.address)
            results = Memo(store, executor, said.append).fulfil(requests)
            return results, [store.results([fingerprint(spec)])[fingerprint(spec)][1] for spec in requests]

    said: list[str] = []
    expected = fulfil(tmp_path / "expected", None, said)
    assert fulfil(tmp_path / "first", location, said) == expected
    assert said == []
    store = Store.open(str(tmp_path / "first" / "results.db"))
    monkeypatch.setenv("AUTONAT_CACHE", str(tmp_path / "other cache"))
    elsewhere = Store.open(str(tmp_path / "first" / "results.db"))
    assert elsewhere.artifacts.location == store.artifacts.location
    memo = Memo(elsewhere, InProcessExecutor(elsewhere.artifacts.address), said.append)
    more = memo.fulfil([LAB.evaluation(PAIR, 60, 6)])
    assert memo.computed == {"EvaluationSpec": 1}
    elsewhere.artifacts.remove(fingerprint(PAIR.training))
    memo = Memo(elsewhere, InProcessExecutor(elsewhere.artifacts.address), said.append)
    assert memo.fulfil([LAB.evaluation(PAIR, 60, 6), PAIR.training]) == [*more, expected[0][1]]
    assert memo.computed == {"TrainSpec": 1}
    assert ["is missing" in line for line in said] == [True]
    store.close()
    elsewhere.close()


def test_an_unfinished_training_goes_on_elsewhere(remote, tmp_path, monkeypatch):
    """Its state travels, and goes when the training is finished."""
    artifacts = Artifacts(remote)
    artifacts.create()
    state = artifacts.state_path(NAME)
    for content in (b"one", b"two"):
        state.write_bytes(content)
        artifacts.publish_changed(state)
        artifacts.publish_changed(state)
    elsewhere = on_another_host(remote, tmp_path, monkeypatch)
    assert elsewhere.fetch(elsewhere.state_path(NAME))
    assert elsewhere.state_path(NAME).read_bytes() == b"two"
    elsewhere.discard(elsewhere.state_path(NAME))
    assert not on_another_host(remote, tmp_path, monkeypatch).fetch(elsewhere.state_path(NAME))
