"""Reference statistics read back as written, from each format; a bad file is one clear line."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_fidelity.metric_fid import fid_features_to_statistics
from torch_fidelity.utils_torch import torch_atomic_save

from models.frechet import Statistics
from models.statistics_files import StatisticsError, StoredStatistics, read_statistics, write_statistics

FEATURES = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("features", [None, FEATURES[:9]])
def test_our_files_come_back_as_they_were(tmp_path, suffix, features):
    stored = StoredStatistics.of(Statistics.of(FEATURES), {"features": "inception", "size": None}, features)
    path = tmp_path / f"r.{suffix}"
    write_statistics(path, stored)
    found = read_statistics(path, dimensions=7)
    assert torch.equal(found.mean, stored.mean)
    assert torch.equal(found.covariance, stored.covariance)
    assert (found.count, found.provenance) == (50, {"features": "inception", "size": None})
    assert torch.equal(found.features, features) if features is not None else found.features is None
    assert found.reference().distance(stored.mean, stored.covariance) == pytest.approx(0, abs=1e-12)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_published_files_are_read(tmp_path, dtype):
    covariance = np.cov(FEATURES.numpy().T)
    np.savez(tmp_path / "fid_stats.npz", mu=FEATURES.numpy().mean(0).astype(dtype), sigma=covariance.astype(dtype))
    found = read_statistics(tmp_path / "fid_stats.npz")
    assert found.count is None
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    np.testing.assert_allclose(found.covariance.numpy(), covariance, rtol=1e-6, atol=1e-7)


def test_torch_fidelitys_cache_is_read(tmp_path):
    statistics = fid_features_to_statistics(FEATURES)
    torch_atomic_save(statistics, str(tmp_path / "images-inception-v3-compat-stat-fid-2048.pt"))
    found = read_statistics(tmp_path / "images-inception-v3-compat-stat-fid-2048.pt", dimensions=7)
    np.testing.assert_array_equal(found.mean.numpy(), statistics["mu"])
    np.testing.assert_array_equal(found.covariance.numpy(), statistics["sigma"])


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the file was executed')",))


def bad_files(folder):
    """Files that cannot be used, and what must be said of each."""
    mu, sigma = np.zeros(4), np.eye(4)
    lopsided = sigma.copy()
    lopsided[0, 3] = 0.5

    def npz(name, **content):
        np.savez(folder / name, **content)
        return folder / name

    def pt(name, content):
        torch.save(content, folder / name)
        return folder / name

    whole = npz("whole.npz", mu=np.zeros(64), sigma=np.eye(64)).read_bytes()
    for name, content in (("truncated.npz", whole[:9000]), ("noise.npz", b"noise"), ("short.pt", b"PK\3\4")):
        (folder / name).write_bytes(content)
    np.save(folder / "array.npy", mu)
    (folder / "array.npy").rename(folder / "single.npz")
    save_file({"mu": torch.zeros(4)}, folder / "other.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "other.safetensors").read_bytes()[:40])
    return [
        (npz("dimension.npz", mu=np.zeros(5), sigma=np.eye(5)), "5 features, the feature network 4"),
        (npz("nan.npz", mu=mu, sigma=sigma * np.nan), "not finite"),
        (npz("infinite.npz", mu=mu + np.inf, sigma=sigma), "not finite"),
        (npz("lopsided.npz", mu=mu, sigma=lopsided), "not symmetric"),
        (npz("negative.npz", mu=mu, sigma=-sigma), "negative variances"),
        (npz("shapes.npz", mu=mu, sigma=np.eye(3)), r"mu \[D\] and sigma"),
        (npz("flat.npz", mu=mu, sigma=mu), r"mu \[D\] and sigma"),
        (npz("features.npz", mu=mu, sigma=sigma, features=np.zeros((3, 5))), "do not go with 4"),
        (npz("keys.npz", mu=mu), "no sigma, only mu"),
        (npz("words.npz", mu=np.array(["a"] * 4), sigma=sigma), "does not hold numbers"),
        (npz("about.npz", mu=mu, sigma=sigma, autonat=np.array("{")), "not a readable"),
        (npz("objects.npz", mu=np.array([Bomb()]), sigma=sigma), "not a readable"),
        (folder / "truncated.npz", "not a readable"),
        (folder / "noise.npz", "not a readable"),
        (folder / "single.npz", "not a readable"),
        (pt("bomb.pt", {"mu": Bomb(), "sigma": sigma}), "more than arrays"),
        (pt("rows.pt", torch.zeros(8, 4)), "holds features"),
        (pt("keys.pt", {"mu": mu}), "no sigma"),
        (pt("list.pt", [1, 2]), "no mu and sigma"),
        (folder / "short.pt", "not a readable"),
        (folder / "other.safetensors", "does not hold statistics"),
        (folder / "cut.safetensors", "not a readable"),
        (folder / "absent.npz", "no such"),
        (folder / "array.txt", "statistics come as"),
    ]


def test_bad_files_are_refused_in_one_line(tmp_path):
    for path, message in bad_files(tmp_path):
        with pytest.raises(StatisticsError, match=message) as caught:
            read_statistics(path, dimensions=4)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(StatisticsError, match="written as"):
        write_statistics(tmp_path / "r.pt", StoredStatistics(torch.zeros(1), torch.eye(1)))
