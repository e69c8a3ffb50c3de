import pytest

from models.counts import num_parameters
from models.networks import network_config
from models.presets import PRESETS, find_preset, preset

PUBLISHED = {
    "AutoNAT-S": 45_546_497,
    "AutoNAT-L": 193_655_297,
    "ENAT-L": 574_298_113,
    "ENAT-L-512": 575_084_545,
    "MUSE-CC3M": 503_628_929,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    assert num_parameters(preset(name)) == PUBLISHED[name]
    assert find_preset(name).guessed == ()


def test_enat_xl_is_about_a_billion():
    assert 0.95e9 < num_parameters(preset("ENAT-XL")) < 1.1e9
    assert preset("ENAT-XL").encoder_blocks + preset("ENAT-XL").decoder_blocks == 28


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_frozen_configuration_with_a_source(name):
    found = find_preset(name.lower())
    assert found is PRESETS[name]
    assert network_config(found.config.to_dict()) == found.config == preset(name)
    assert hash(found.config) is not None
    assert len(found.source) > 20
    assert all(hasattr(found.config, field) for field in found.guessed)


@pytest.mark.parametrize("name", ["ENAT-S", "ENAT-B", "ENAT-XL"])
def test_what_the_papers_do_not_fix_is_said(name):
    assert find_preset(name).guessed
    assert "not established" in find_preset(name).source or "guess" in find_preset(name).source


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no network preset 'ENAT-M'.*AutoNAT-S.*ENAT-L"):
        preset("ENAT-M")


def test_sizes_grow():
    for names in (("AutoNAT-S", "AutoNAT-L"), ("digits", "cifar10", "ENAT-S", "ENAT-B", "ENAT-L", "ENAT-XL")):
        sizes = [num_parameters(preset(name)) for name in names]
        assert sizes == sorted(sizes)
