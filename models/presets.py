"""Networks by name: the papers' sizes and this project's own.

Every preset says where its sizes come from, and names the fields that its source does not fix.
"""

from dataclasses import dataclass

from models.enat import ENATConfig
from models.networks import NetworkConfig
from models.uvit import TextUViTConfig, UViTConfig


@dataclass(frozen=True, slots=True)
class Preset:
    """A configuration, where it is from, and the fields that are this project's guess (empty: all established)."""

    config: NetworkConfig
    source: str
    guessed: tuple[str, ...] = ()


_AUTONAT = "AutoNAT, arXiv 2406.05478, and LeapLabTHU/ImprovedNAT"
_ENAT = "ENAT, arXiv 2411.06959, and LeapLabTHU/ENAT"
_UNPUBLISHED = (
    "not established: ENAT, arXiv 2411.06959, has a network of this name, but its official repository gives ENAT-L "
    "alone and the paper's table of sizes was not at hand; depth, width and heads are this project's stand-in, ENAT-L "
    "scaled down"
)
_DIGITS = ENATConfig(
    num_tokens=64,
    codebook_size=17,
    num_classes=10,
    width=48,
    heads=4,
    encoder_blocks=1,
    decoder_blocks=2,
    embedding_std=0.2,
    initial_positions="sinusoidal",
)
_SHAPE = ("width", "heads", "encoder_blocks", "decoder_blocks")

PRESETS: dict[str, Preset] = {
    "AutoNAT-S": Preset(UViTConfig(width=512, heads=8, blocks=13), f"{_AUTONAT}: 13 blocks of 512, ImageNet-256"),
    "AutoNAT-L": Preset(
        UViTConfig(width=768, heads=8, blocks=25),
        f"{_AUTONAT} (configs/AutoNAT_L.yaml): 25 blocks of 768, ImageNet-256",
    ),
    "ENAT-S": Preset(ENATConfig(width=512, heads=8, encoder_blocks=10, decoder_blocks=2), _UNPUBLISHED, _SHAPE),
    "ENAT-B": Preset(ENATConfig(width=768, heads=12, encoder_blocks=14, decoder_blocks=2), _UNPUBLISHED, _SHAPE),
    "ENAT-L": Preset(ENATConfig(), f"{_ENAT} (README): 22 + 2 blocks of 1,024, 16 heads, ImageNet-256"),
    "ENAT-L-512": Preset(ENATConfig(num_tokens=1024), f"{_ENAT} (README): as ENAT-L with 32 x 32 tokens, ImageNet-512"),
    "ENAT-XL": Preset(
        ENATConfig(width=1280, heads=20, encoder_blocks=26, decoder_blocks=2),
        "ENAT, arXiv 2411.06959: 28 blocks of 1,280, about 1B parameters; that two of them decode and that a head has "
        "64 numbers, as in ENAT-L, is this project's guess",
        ("heads", "encoder_blocks", "decoder_blocks"),
    ),
    "MUSE-CC3M": Preset(
        TextUViTConfig(),
        "baaivision/MUSE-Pytorch, checkpoint nzl-thu/MUSE (cc3m-285000.ckpt): 29 blocks of 1,152, 77 CLIP tokens of "
        "1,280, CC3M",
    ),
    "digits": Preset(_DIGITS, "this project: the network of studies/digits.yaml, 8 x 8 digits"),
    "cifar10": Preset(
        ENATConfig(
            num_tokens=64,
            codebook_size=512,
            num_classes=10,
            width=256,
            heads=4,
            encoder_blocks=6,
            decoder_blocks=2,
            embedding_std=0.2,
            initial_positions="sinusoidal",
        ),
        "this project: 8 x 8 tokens of 512 codes for 32 x 32 pixels, 10 classes",
    ),
}


def preset(name: str) -> NetworkConfig:
    """The configuration of a preset. Raises ValueError, listing the names, for one that is none."""
    return find_preset(name).config


def find_preset(name: str) -> Preset:
    """A preset with its source. Capitals do not matter: enat-l is ENAT-L. Raises ValueError as ``preset``."""
    for known, found in PRESETS.items():
        if known.lower() == name.lower():
            return found
    raise ValueError(f"there is no network preset {name!r}; there are {', '.join(PRESETS)}")
