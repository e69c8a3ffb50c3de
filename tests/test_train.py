import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import tiny_config

import models.train
import models.training_state
from models.checkpoint import load_tensors
from models.enat import ENAT
from models.mask_ratio import BetaMaskRatio, FixedMaskRatio
from models.train import DivergedError, TrainingConfig, batch_indices, learning_rate_at, masked_cross_entropy, train
from models.uvit import UViT, UViTConfig

NETWORK = tiny_config(encoder_blocks=1)
CONFIG = TrainingConfig(
    steps=60, batch_size=4, learning_rate=3e-3, warmup_steps=5, ratio_groups=2, checkpoint_every_steps=20
)
MASK_RATIO = BetaMaskRatio(4, 2)
SHORT = replace(CONFIG, steps=6, checkpoint_every_steps=1)


def data(num_images=10):
    generator = torch.Generator().manual_seed(8)
    labels_N = torch.randint(NETWORK.num_classes, (num_images,), generator=generator)
    return torch.randint(NETWORK.codebook_size, (num_images, NETWORK.num_tokens), generator=generator), labels_N


def run(config=CONFIG, seed=1, network=NETWORK, **options):
    return train(network, config, MASK_RATIO, *data(), seed, **options)


def same_weights(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.fixture(scope="module")
def uninterrupted():
    return run()


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 99), st.integers(0, 5))
def test_every_image_is_used_once_an_epoch(num_images, batch_size, seed, first_epoch):
    wanted = np.arange(first_epoch * num_images, (first_epoch + 2) * num_images)
    steps = range(wanted[0] // batch_size, wanted[-1] // batch_size + 1)
    used = np.concatenate([batch_indices(num_images, batch_size, step, seed) for step in steps])
    used = used[wanted[0] - steps[0] * batch_size :][: 2 * num_images]
    for epoch in np.split(used, 2):
        assert sorted(epoch.tolist()) == list(range(num_images))


def test_epochs_and_seeds_have_different_orders():
    orders = [tuple(batch_indices(50, 50, epoch, seed)) for epoch in range(3) for seed in range(3)]
    assert len(set(orders)) == 9


class InterruptedTrainingError(Exception):
    pass


def interrupt_at(step):
    def progress(done, loss):
        if done == step:
            raise InterruptedTrainingError

    return progress


def interrupted_state(path, **changes):
    """Interrupt a training at step 50, after its checkpoint of step 40."""
    with pytest.raises(InterruptedTrainingError):
        run(replace(CONFIG, **changes), state_path=path, progress=interrupt_at(50))
    assert load_tensors(path)[1]["step"] == 40


def steps_taken(monkeypatch):
    taken, original = [], models.train.batch_indices

    def counted(num_images, batch_size, step, seed):
        taken.append(step)
        return original(num_images, batch_size, step, seed)

    monkeypatch.setattr(models.train, "batch_indices", counted)
    return taken


def test_resumed_training_ends_in_the_same_bits(tmp_path, uninterrupted, monkeypatch):
    path = tmp_path / "state.safetensors"
    interrupted_state(path)
    taken = steps_taken(monkeypatch)
    network, loss = run(state_path=path)
    assert taken == list(range(40, 60))
    assert same_weights(network, uninterrupted[0])
    assert loss == uninterrupted[1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_training_is_there_until_its_state_is_removed(tmp_path, uninterrupted, monkeypatch):
    """Between the last step and the moment when the weights are in a safe place, a kill costs no step."""
    path = tmp_path / "state.safetensors"
    run(state_path=path)
    taken = steps_taken(monkeypatch)
    network, loss = run(state_path=path)
    assert taken == []
    assert same_weights(network, uninterrupted[0])
    assert loss == uninterrupted[1]


def test_interruption_within_the_last_tenth_keeps_the_loss(tmp_path, monkeypatch):
    config = replace(CONFIG, steps=50, checkpoint_every_steps=47)
    path = tmp_path / "state.safetensors"
    with pytest.raises(InterruptedTrainingError):
        run(config, state_path=path, progress=interrupt_at(50))
    taken = steps_taken(monkeypatch)
    network, loss = run(config, state_path=path)
    assert taken == list(range(47, 50))
    expected, expected_loss = run(config)
    assert same_weights(network, expected)
    assert loss == expected_loss


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut off", "another network", "no step"])
def test_unusable_state_is_started_over(tmp_path, uninterrupted, monkeypatch, damage):
    path = tmp_path / "state.safetensors"
    if damage == "another network":
        with pytest.raises(InterruptedTrainingError):
            run(network=replace(NETWORK, width=32), state_path=path, progress=interrupt_at(50))
    else:
        interrupted_state(path)
        whole = path.read_bytes()
        damaged = {"garbage": b"\0" * 100, "empty": b"", "cut off": whole[: len(whole) // 2]}
        damaged["no step"] = whole.replace(b'\\"step\\"', b'\\"pets\\"')
        assert damaged[damage] != whole
        path.write_bytes(damaged[damage])
    taken = steps_taken(monkeypatch)
    network, loss = run(state_path=path)
    assert taken == list(range(60))
    assert same_weights(network, uninterrupted[0])
    assert loss == uninterrupted[1]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2},
        {"precision": "bfloat16"},
        {"mask_ratio": BetaMaskRatio(2.0, 4.0)},
        {"config": replace(CONFIG, learning_rate=1e-3)},
        {"tokens": 8},
    ],
    ids=lambda other: next(iter(other)),
)
def test_the_state_of_another_training_is_not_taken_up(tmp_path, monkeypatch, other):
    path = tmp_path / "state.safetensors"
    tokens, labels = data()
    count = other.get("tokens", len(tokens))
    arguments = (
        NETWORK, other.get("config", CONFIG), other.get("mask_ratio", MASK_RATIO), tokens[:count], labels[:count],
        other.get("seed", 1),
    )  # fmt: skip
    with pytest.raises(InterruptedTrainingError):
        train(
            *arguments, state_path=path, precision=other.get("precision", "float32"), progress=interrupt_at(50),
            progress_every=10,
        )  # fmt: skip
    assert path.exists()
    taken = steps_taken(monkeypatch)
    run(state_path=path)
    assert taken == list(range(60))


@pytest.mark.parametrize(("steps", "until"), [(37, None), (20, 13), (5, None)])
def test_the_loss_is_the_mean_of_the_last_tenth(steps, until):
    losses: list[float] = []
    _, loss = train(
        NETWORK, replace(SHORT, steps=steps), MASK_RATIO, *data(), 1, until_step=until,
        progress=lambda _, value: losses.append(value), progress_every=1,
    )  # fmt: skip
    assert len(losses) == (until or steps)
    assert loss == pytest.approx(np.mean(losses[-max(1, len(losses) // 10) :]), rel=1e-6)


def test_a_training_that_diverges_says_so():
    config = replace(SHORT, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) after \d+ steps; lower learning_rate"):
        run(config)


def test_checkpoints_do_not_change_the_result(tmp_path, uninterrupted):
    network, loss = run(replace(CONFIG, checkpoint_every_steps=7), state_path=tmp_path / "state.safetensors")
    assert same_weights(network, uninterrupted[0])
    assert loss == uninterrupted[1]


def test_seeds_give_different_networks(uninterrupted):
    network, loss = run(seed=2)
    assert not same_weights(network, uninterrupted[0])
    assert loss != uninterrupted[1]


def test_training_learns_a_data_set_of_one_image():
    tokens_NL, labels_N = data(1)
    config = replace(CONFIG, steps=200, learning_rate=1e-2, label_smoothing=0.0)
    network, loss = train(replace(NETWORK, embedding_std=0.5), config, MASK_RATIO, tokens_NL, labels_N, 0)
    assert loss < 0.5 * np.log(NETWORK.codebook_size)
    assert not network.training


UVIT = UViTConfig(
    num_tokens=NETWORK.num_tokens, codebook_size=NETWORK.codebook_size, num_classes=NETWORK.num_classes,
    width=16, heads=2, blocks=3,
)  # fmt: skip
UVIT_CONFIG = replace(CONFIG, reuse_probability=0.0)


def test_a_u_vit_learns_a_data_set_of_one_image():
    config = replace(UVIT_CONFIG, steps=200, learning_rate=1e-2, label_smoothing=0.0)
    network, loss = train(UVIT, config, MASK_RATIO, *data(1), 0)
    assert loss < 0.5 * np.log(UVIT.codebook_size)
    assert isinstance(network, UViT)


def test_a_u_vit_is_trained_with_a_count_for_each_image_up_to_all_tokens(monkeypatch):
    counts = []
    plain = UViT.forward

    def watched(self, tokens_BL, masked_BL, *others, **options):
        counts.append(masked_BL.sum(1).tolist())
        return plain(self, tokens_BL, masked_BL, *others, **options)

    monkeypatch.setattr(UViT, "forward", watched)
    train(UVIT, replace(UVIT_CONFIG, steps=20), BetaMaskRatio(8.0, 0.5), *data(), 1)
    assert any(len(set(batch)) > 1 for batch in counts)
    assert max(map(max, counts)) == UVIT.num_tokens  # ENAT would keep one visible
    assert min(map(min, counts)) >= 1


def test_an_interrupted_u_vit_ends_in_the_same_bits(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(InterruptedTrainingError):
        run(UVIT_CONFIG, network=UVIT, state_path=path, progress=interrupt_at(50))
    whole, again = run(UVIT_CONFIG, network=UVIT), run(UVIT_CONFIG, network=UVIT, state_path=path)
    assert same_weights(whole[0], again[0])
    assert whole[1] == again[1]


def test_bfloat16_rounds_products_and_keeps_float32_weights(uninterrupted):
    network, loss = run(precision="bfloat16")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not same_weights(network, uninterrupted[0])
    assert loss == pytest.approx(uninterrupted[1], abs=0.05)
    assert same_weights(network, run(precision="bfloat16")[0])


def states_of(monkeypatch, config):
    """The state after every step, as it would be written to disk."""
    states = []

    def keep(path, tensors, metadata):
        states.append({name: value.clone() for name, value in tensors.items()})

    monkeypatch.setattr(models.training_state, "save_tensors", keep)
    return states


@pytest.mark.parametrize("ema_decay", [0.0, 0.15, 1.0])
def test_average_is_the_exponential_moving_average(tmp_path, monkeypatch, ema_decay):
    states = states_of(monkeypatch, SHORT)
    run(replace(SHORT, ema_decay=ema_decay), state_path=tmp_path / "state.safetensors")
    assert len(states) == SHORT.steps
    names = [name.removeprefix("network.") for name in states[0] if name.startswith("network.")]
    for step, (before, after) in enumerate(itertools.pairwise(states), start=1):
        decay = min(ema_decay, (1 + step) / (10 + step))
        for name in names:
            expected = decay * before[f"average.{name}"] + (1 - decay) * after[f"network.{name}"]
            torch.testing.assert_close(after[f"average.{name}"], expected, rtol=1e-4, atol=1e-6)
    moved = "x_embedder.word_embeddings.weight"
    equal = torch.equal(states[-1][f"average.{moved}"], states[-1][f"network.{moved}"])
    assert equal == (ema_decay == 0)


def passes_of(monkeypatch):
    """(of the trained network, labels, masked counts, features to reuse) of every pass."""
    passes, original = [], ENAT.forward

    def recorded(self, tokens_BL, masked_BL, labels_B, reused=None, num_masked=None):
        passes.append((self.training, labels_B.tolist(), masked_BL.sum(1).tolist(), reused))
        return original(self, tokens_BL, masked_BL, labels_B, reused, num_masked)

    monkeypatch.setattr(ENAT, "forward", recorded)
    return passes


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_features_are_reused_as_often_as_stated(monkeypatch, probability):
    passes = passes_of(monkeypatch)
    run(replace(CONFIG, reuse_probability=probability))
    groups = CONFIG.steps * CONFIG.ratio_groups
    trained = [reused for training, _, _, reused in passes if training]
    assert len(trained) == groups
    fraction = sum(reused is not None for reused in trained) / groups
    assert fraction == pytest.approx(probability, abs=0.2 if probability == 0.5 else 0)
    assert len(passes) - groups == sum(reused is not None for reused in trained)


def test_reused_features_come_from_the_average_with_more_tokens_masked(monkeypatch):
    passes = passes_of(monkeypatch)
    run(replace(CONFIG, reuse_probability=1.0))
    more = 0
    for earlier, later in zip(passes[::2], passes[1::2], strict=True):
        assert (earlier[0], later[0]) == (False, True)
        assert earlier[3] is None
        assert earlier[1] == later[1]
        assert earlier[2] >= later[2]
        assert later[3].num_visible == NETWORK.num_tokens - earlier[2][0]
        assert not later[3].features_BLD.requires_grad
        more += earlier[2] > later[2]
    assert more > len(passes) / 8


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_reuse_projection_is_trained_by_reuse_alone(tmp_path, monkeypatch, probability):
    states = states_of(monkeypatch, SHORT)
    run(replace(SHORT, reuse_probability=probability), state_path=tmp_path / "state.safetensors")
    moved = {
        name: not torch.equal(states[0][name], states[-1][name]) for name in states[0] if name.startswith("network.")
    }
    assert all(moved[name] == (probability == 1) for name in moved if "prev_proj.mlp" in name)
    assert not any(moved[name] for name in moved if "prev_embedder" in name)
    assert moved["network.x_embedder.word_embeddings.weight"]


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_labels_are_dropped_as_often_as_stated(monkeypatch, probability):
    passes = passes_of(monkeypatch)
    run(replace(CONFIG, class_dropout=probability))
    labels = np.array([labels for training, labels, _, _ in passes if training]).ravel()
    assert len(labels) == CONFIG.steps * CONFIG.batch_size
    dropped = (labels == NETWORK.num_classes).mean()
    assert dropped == pytest.approx(probability, abs=0.1 if probability == 0.3 else 0)
    kept = labels[labels != NETWORK.num_classes]
    assert set(kept) <= set(data()[1].tolist())


def test_each_group_has_its_own_count_of_masked_tokens(monkeypatch):
    passes = passes_of(monkeypatch)
    run()
    trained = [counts for training, _, counts, _ in passes if training]
    assert all(len(set(counts)) == 1 and len(counts) == CONFIG.batch_size // CONFIG.ratio_groups for counts in trained)
    assert all(1 <= counts[0] < NETWORK.num_tokens for counts in trained)
    assert any(first != second for first, second in zip(trained[::2], trained[1::2], strict=True))


def test_mask_ratio_decides_the_counts(monkeypatch):
    passes = passes_of(monkeypatch)
    train(NETWORK, replace(SHORT, reuse_probability=0.0), FixedMaskRatio(0.25), *data(), seed=1)
    assert {count for _, _, counts, _ in passes for count in counts} == {NETWORK.num_tokens // 4}


@given(st.integers(1, 30), st.integers(31, 90))
@settings(max_examples=20)
def test_learning_rate(warmup_steps, steps):
    constant = replace(CONFIG, warmup_steps=warmup_steps, steps=steps)
    rates = [learning_rate_at(constant, step) for step in range(steps)]
    assert rates[:warmup_steps] == pytest.approx(list(np.arange(1, warmup_steps + 1) / warmup_steps * 3e-3))
    assert rates[warmup_steps:] == [3e-3] * (steps - warmup_steps)
    falling = [learning_rate_at(replace(constant, decay="cosine"), step) for step in range(steps + 1)]
    assert falling[:warmup_steps] == rates[:warmup_steps]
    assert (np.diff(falling[warmup_steps:]) < 0).all()
    assert falling[-1] == pytest.approx(0, abs=1e-12)


def test_learning_rate_is_what_the_optimiser_uses(tmp_path, monkeypatch):
    """Adam's first step has the length of the learning rate."""
    states = states_of(monkeypatch, SHORT)
    config = replace(SHORT, warmup_steps=3, weight_decay=0.0, adam_beta1=0.0, adam_beta2=0.0)
    run(config, state_path=tmp_path / "state.safetensors")
    for step, (before, after) in enumerate(itertools.pairwise(states), start=1):
        move = (after["network.mlm_layer.ln.bias"] - before["network.mlm_layer.ln.bias"]).abs()
        assert float(move.median()) == pytest.approx(learning_rate_at(config, step), rel=1e-2)


@given(st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=30)
def test_loss_is_the_smoothed_cross_entropy_over_masked_tokens(smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(-1, 6, (2, 5), generator=generator)
    targets[0, 0] = 3
    terms = []
    for log_probabilities, target in zip(logits.log_softmax(-1).flatten(0, 1), targets.flatten(), strict=True):
        if target >= 0:
            terms.append((1 - smoothing) * -log_probabilities[target] + smoothing * -log_probabilities.mean())
    expected = float(torch.stack(terms).mean())
    assert float(masked_cross_entropy(logits, targets, smoothing)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"ratio_groups": 0},
        {"checkpoint_every_steps": 0},
        {"learning_rate": 0.0},
        {"label_smoothing": 1.5},
        {"class_dropout": -0.1},
        {"reuse_probability": 1.1},
        {"ema_decay": 2.0},
        {"adam_beta1": -1.0},
        {"ratio_groups": 3},
        {"decay": "linear"},
    ],
)
def test_bad_values_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(CONFIG, **changes)
