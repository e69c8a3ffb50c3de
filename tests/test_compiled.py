"""Networks through torch.compile: the same but for rounding, one compilation for all counts, no graph breaks."""

from dataclasses import replace

import pytest
import torch
from strategies import tiny_network
from studies_for_tests import run_ok, tiny_recipe, write_recipe
from test_train import CONFIG, MASK_RATIO, NETWORK, data

import models.compiled
from autonat.search.alternation import start_of
from autonat.specs import Compute, fingerprint
from models.compiled import compiled
from models.train import train


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def passes(network, counts):
    """Features and logits of a chain of steps with these counts of masked tokens."""
    config, found, reused = network.config, [], None
    generator = torch.Generator().manual_seed(0)
    tokens_BL = torch.randint(config.codebook_size, (4, config.num_tokens), generator=generator)
    order_BL = torch.rand(4, config.num_tokens, generator=generator).argsort(1)
    with torch.inference_mode():
        for count in counts:
            reused = network(tokens_BL, order_BL < count, torch.arange(4) % 3, reused, count)
            found += [reused.features_BLD, network.logits(reused.features_BLD)]
    return found


@pytest.mark.slow
def test_a_compiled_network_differs_by_rounding_alone():
    counts = [14, 9, 5]
    expected = passes(tiny_network(), counts)
    for own, other in zip(expected, passes(compiled(tiny_network()), counts), strict=True):
        assert torch.allclose(own, other, rtol=1e-4, atol=1e-5)


def counting(monkeypatch):
    """Captured by the compiler's front end alone, which is quick; the graphs that it was given."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(models.compiled, "BACKEND", backend)
    return graphs


def test_counts_are_symbols_and_nothing_breaks_the_graph(monkeypatch):
    graphs = counting(monkeypatch)
    torch._dynamo.utils.counters.clear()
    network = compiled(tiny_network())
    expected = passes(tiny_network(), [13, 11, 9, 7, 5, 3])
    assert all(map(torch.equal, passes(network, [13, 11, 9, 7, 5, 3]), expected))
    known = len(graphs)
    passes(network, [14, 12, 8, 6, 4, 2])
    assert len(graphs) == known <= 6
    assert not torch._dynamo.utils.counters["graph_break"]
    assert set(network.state_dict()) == set(tiny_network().state_dict())


def test_a_training_with_compiled_networks(monkeypatch):
    graphs = counting(monkeypatch)
    config = replace(CONFIG, steps=6)
    plain, loss = train(NETWORK, config, MASK_RATIO, *data(), 1)
    found, own = train(NETWORK, config, MASK_RATIO, *data(), 1, compile=True)
    assert own == pytest.approx(loss, rel=1e-5)
    assert len(graphs) >= 3  # passes with a gradient, the average's without, logits
    for one, other in zip(plain.parameters(), found.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


def test_compiled_results_have_names_of_their_own():
    lab, pair = start_of(tiny_recipe())
    spec = lab.evaluation(pair, 40, 1)
    assert fingerprint(replace(spec, compute=Compute(compile=False))) == fingerprint(spec)
    assert fingerprint(replace(spec, compute=Compute(compile=True))) != fingerprint(spec)


@pytest.mark.slow
def test_a_study_with_compiled_networks(tmp_path, monkeypatch):
    graphs = counting(monkeypatch)
    write_recipe(tmp_path, compute={"compile": True}, phases=["schedule"], search__descent=None,
                 search__warm_start={"trials": 2, "random_trials": 2, "batch": 2, "images": 40, "keep": 1})  # fmt: skip
    run_ok("run", tmp_path / "recipe.yaml", "--db", tmp_path / "study.db", "--workers", 0)
    trained = len(graphs)
    assert trained >= 3
    torch._dynamo.reset()
    run_ok("verify", "tiny", "--db", tmp_path / "study.db", "--count", 3, "--workers", 0)
    assert len(graphs) > trained  # those that paint
