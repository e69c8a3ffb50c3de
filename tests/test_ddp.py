"""Trainings on several devices: the same numbers as on one, and no process that outlives a failure."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from rank_data import CLASSES, CODES, LENGTH, codes, codes_in_float64, fails_once
from strategies import tiny_config
from studies_for_tests import children, is_running, wait_for

from autonat.errors import UserError
from autonat.execution.executor import InProcessExecutor, ProcessExecutor
from autonat.execution.tasks import TrainTask
from autonat.specs import TrainSpec, fingerprint
from models.checkpoint import load_network, load_tensors
from models.ddp import DeviceError, DeviceTraining, RankError, train_on_devices
from models.files import FileError
from models.mask_ratio import BetaMaskRatio
from models.ranks import ALONE, Ranks
from models.train import TrainingConfig
from models.uvit import UViTConfig

NETWORK = tiny_config(num_tokens=LENGTH, codebook_size=CODES, num_classes=CLASSES, encoder_blocks=1)
CONFIG = TrainingConfig(
    steps=12, batch_size=8, learning_rate=3e-3, warmup_steps=2, ratio_groups=4, ema_decay=0.9, checkpoint_every_steps=5
)
TWO = replace(CONFIG, devices=2)


@pytest.fixture
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def training(config=TWO, network=NETWORK, load=codes_in_float64, **options):
    return DeviceTraining(network, config, BetaMaskRatio(4, 2), load, "cpu", 3, **options)


def greatest_difference(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


UVIT = UViTConfig(num_tokens=LENGTH, codebook_size=CODES, num_classes=CLASSES, width=16, heads=2, blocks=3)


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        pytest.param(NETWORK, {}, id="enat, of whose groups some reuse features"),
        pytest.param(UVIT, {"reuse_probability": 0.0}, id="u-vit, with a count an image", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_do_what_one_does(in_float64, network, changes):
    one, loss = train_on_devices(training(replace(CONFIG, **changes), network))
    told = []
    two, loss_of_two = train_on_devices(
        training(replace(TWO, **changes), network, progress_every=5), progress=lambda *news: told.append(news)
    )
    assert next(two.parameters()).dtype == torch.float64
    assert greatest_difference(one, two) < 1e-12
    assert loss_of_two == pytest.approx(loss, rel=1e-12)
    assert [step for step, _ in told] == [5, 10, 12]
    begun, _ = train_on_devices(training(replace(CONFIG, steps=1, ratio_groups=4, **changes), network))
    assert greatest_difference(one, begun) > 1e-4  # the numbers above are of networks that moved


@pytest.mark.slow
def test_two_ranks_leave_off_and_go_on_in_the_same_bits(tmp_path):
    state = tmp_path / "state.safetensors"
    options = {"load": codes, "state_path": state}
    whole, loss = train_on_devices(training(**options))
    assert load_tensors(state)[1]["step"] == CONFIG.steps
    state.unlink()
    train_on_devices(training(until_step=7, **options))
    assert state.exists()
    again, loss_again = train_on_devices(training(**options))
    assert greatest_difference(whole, again) == 0
    assert loss_again == loss


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("killed", RankError, r"rank \d of 2: the process died \(killed; out of memory\?\)"),
        pytest.param("error", RankError, r"rank \d of 2: RuntimeError: no memory", marks=pytest.mark.slow),
        pytest.param("refused", FileError, "the tokens are gone", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_ends_the_training_with_its_error(tmp_path, how, error, message):
    before = set(children(os.getpid()))
    started = time.monotonic()
    with pytest.raises(error, match=message):
        train_on_devices(training(load=partial(fails_once, str(tmp_path), how)))
    assert set(children(os.getpid())) == before
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert time.monotonic() - started < 120  # and not after a time limit of the collective


LONG = TrainSpec("digits", replace(NETWORK, num_tokens=64, codebook_size=17, num_classes=10),
                 replace(TWO, steps=100_000, checkpoint_every_steps=20), BetaMaskRatio(4, 2), 3)  # fmt: skip


@pytest.mark.slow
def test_ranks_end_with_a_worker_that_is_killed(tmp_path):
    code = (
        "import test_ddp; from autonat.execution.worker import Worker; from autonat.execution.tasks import TrainTask\n"
        f"Worker({str(tmp_path)!r}).perform(TrainTask(test_ddp.LONG))"
    )
    path = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    worker = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_for(lambda: (tmp_path / f"{fingerprint(LONG)}.state.safetensors").exists(), "a step of the training")
        ranks = children(worker.pid)
        assert len(ranks) == 2
    finally:
        worker.kill()
        worker.wait()
    wait_for(lambda: not any(map(is_running, ranks)), "the ranks to go")


@pytest.mark.slow
def test_a_worker_process_trains_on_two_devices(tmp_path):
    """Worker processes are daemons, which multiprocessing lets have no children."""
    spec = replace(LONG, training=replace(TWO, steps=3))
    with ProcessExecutor(str(tmp_path), 1) as executor:
        ((_, (trained, _), _),) = executor.run([TrainTask(spec)])
    with InProcessExecutor(str(tmp_path)) as executor:
        alone = replace(spec, training=replace(CONFIG, steps=3))
        ((_, (trained_alone, _), _),) = executor.run([TrainTask(alone)])
    networks = [load_network(tmp_path / f"{fingerprint(each)}.safetensors") for each in (spec, alone)]
    assert greatest_difference(*networks) < 1e-5
    assert trained.loss == pytest.approx(trained_alone.loss, rel=1e-5)


def test_too_few_devices_are_told_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match=r"training\.devices is 2, but there are 1 CUDA devices"):
        train_on_devices(replace(training(), device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec = replace(LONG, compute=replace(LONG.compute, device="cuda"))
    with InProcessExecutor(str(tmp_path)) as executor, pytest.raises(UserError, match=r"training\.devices is 2"):
        list(executor.run([TrainTask(spec)]))


def test_devices_share_whole_groups():
    with pytest.raises(ValueError, match="ratio_groups 4 is not a multiple of devices 3"):
        replace(CONFIG, devices=3)
    assert [list(range(8))[Ranks(rank, 4).share(8)] for rank in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert list(range(8))[ALONE.share(8)] == list(range(8))
