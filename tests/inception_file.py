"""A file of random weights in the layout of the published Inception file, which tests cannot fetch."""

import hashlib
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def random_inception(seed=0):
    """torch-fidelity's network with weights whose activations neither vanish nor explode."""
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"), mock.patch("torch.load"):
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], "none")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.8, 1.2),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.8, 1.2),
                ):
                    tensor.uniform_(low, high, generator=generator)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=2, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
        # What all images share would make one class certain for all of them: take it out of the classifier.
        pixels = F.interpolate(torch.rand(4, 3, 4, 4, generator=generator), size=(32, 32), mode="bilinear") * 255
        shared = F.normalize(network(pixels.to(torch.uint8))[0].mean(dim=0), dim=0)
        network.fc.weight -= torch.outer(network.fc.weight @ shared, shared)
    return network


def write_random_inception(path, seed=0):
    """Write the weights; returns the file's SHA-256."""
    torch.save(random_inception(seed).state_dict(), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
