"""`autonat statistics`, and the whole metric on saved images against torch-fidelity's own calculate_metrics."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from inception_file import write_random_inception
from PIL import Image
from typer.testing import CliRunner

from autonat.cli import app
from autonat.errors import UserError
from autonat.statistics_command import batches
from models.frechet import accumulate
from models.inception import InceptionFeatures
from models.metrics import report_metrics
from models.statistics_files import read_statistics

METRICS = ("isc", "fid", "kid", "prc")
SUBSET = 10


def pictures(count, seed, detail):
    """Smooth random images, uint8 [N, 3, 32, 32]; `detail` cells a side make a kind."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, detail, detail, generator=generator)
    return (F.interpolate(coarse, size=(32, 32), mode="bilinear") * 255).round().to(torch.uint8)


def save_pngs(folder, images_BCHW):
    folder.mkdir()
    for number, image in enumerate(images_BCHW):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    return path, write_random_inception(path)


def statistics(source, weights, out, *options):
    path, sha256 = weights
    arguments = ["statistics", str(source), "--weights", str(path), "--sha256", sha256, "--out", str(out), *options]
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_all_metrics_equal_torch_fidelity_on_saved_images(tmp_path, weights):
    from torch_fidelity import calculate_metrics

    generated, real = pictures(14, 1, 6), pictures(12, 2, 3)
    save_pngs(tmp_path / "generated", generated)
    save_pngs(tmp_path / "real", real)
    out = tmp_path / "real.npz"
    assert "12 images, 2048 features" in statistics(tmp_path / "real", weights, out, "--keep", "100")

    path, sha256 = weights
    inception = InceptionFeatures(path, expected_sha256=sha256, batch_size=7)
    stored = read_statistics(out, inception.dimensions)
    features, logits = inception.features_and_logits(generated)
    ours = report_metrics(
        METRICS,
        features,
        stored.features,
        logits,
        generated_statistics=accumulate(features.split(5)),
        reference=stored.reference(),
        kid_subset_size=SUBSET,
    )
    theirs = calculate_metrics(
        input1=str(tmp_path / "generated"),
        input2=str(tmp_path / "real"),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(path),
        kid_subset_size=SUBSET,
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
        **dict.fromkeys(METRICS, True),
    )
    assert ours.keys() == theirs.keys()
    assert theirs["frechet_inception_distance"] > 1
    assert theirs["kernel_inception_distance_mean"] > 1e-3
    assert theirs["inception_score_mean"] > 1.003  # an untrained network hardly tells images apart
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_a_source_of_mixed_images_is_taken_as_far_as_it_reads(tmp_path, weights):
    for number, (label, side) in enumerate([("cat", 20), ("cat", 31), ("dog", 31), ("dog", 20)]):
        (tmp_path / "source" / label).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "source" / label / f"{number}.png")
    (tmp_path / "source" / "dog" / "notes.png").write_text("not a picture")
    out = tmp_path / "out.npz"
    output = statistics(tmp_path / "source", weights, out, "--size", "16", "--resize", "bilinear", "--keep", "3")
    assert "left out: dog/notes.png" in output
    assert "4 images" in output
    stored = read_statistics(out)
    assert stored.count == 4
    assert stored.features.shape == (3, 2048)
    expected = {"features": "inception", "weights_sha256": weights[1], "images": "uint8", "resize": "bilinear"}
    expected |= {"size": 16, "source": "source", "left_out": 1}
    assert expected.items() <= stored.provenance.items()


def test_batches_hold_neighbours_of_one_size():
    sides = [4, 4, 4, 5, 4, 4]
    found = list(batches(iter([np.full((3, side, side), number) for number, side in enumerate(sides)]), 2))
    assert [tuple(batch.shape[::2]) for batch in found] == [(2, 4), (1, 4), (1, 5), (2, 4)]
    assert torch.cat([batch[:, 0, 0, 0] for batch in found]).tolist() == list(range(6))


def test_what_cannot_be_done_is_said_in_one_line(tmp_path, weights):
    save_pngs(tmp_path / "one", pictures(1, 1, 3))
    (tmp_path / "empty").mkdir()
    one, out = tmp_path / "one", tmp_path / "out.npz"
    for source, to, options, message in (
        (one, tmp_path / "out.pt", (), r"\.npz or \.safetensors"),
        (one, tmp_path / "nowhere" / "out.npz", (), "no folder"),
        (one, out, ("--features", "digits-cnn"), "expected inception"),
        (one, out, ("--resize", "lanczos"), "resize must be"),
        (one, out, ("--sha256", "0" * 64), "not the expected"),
        (one, out, ("--device", "cpux"), "cpux"),
        (one, out, (), "fewer than two"),
        (tmp_path / "empty", out, (), "empty"),
        (tmp_path / "absent", out, (), "absent"),
    ):
        with pytest.raises(UserError, match=message):
            statistics(source, weights, to, *options)
        assert not to.exists()
