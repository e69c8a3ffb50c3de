import pytest
import torch
from databases import database_url, postgres  # noqa: F401 - fixtures for all
from hypothesis import settings

from models.features import ClassifierConfig, train_classifier
from models.images import digits

torch.set_num_threads(1)
settings.register_profile("autonat", deadline=None, derandomize=True)
settings.load_profile("autonat")


@pytest.fixture(scope="session")
def classifier():
    """A quickly trained feature network and its test accuracy."""
    return train_classifier(ClassifierConfig(steps=150, batch_size=64, dimensions=64), digits(), seed=3)
