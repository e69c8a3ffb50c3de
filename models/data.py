"""What a study's images are made of: real digits in memory, or tokens in files.

N images, L = h w tokens, K codes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from models.files import File, FileError
from models.images import image_set
from models.tokenizer import GreyLevelTokenizer, Tokenizer


@dataclass(frozen=True, slots=True)
class Captions:
    """Captions in place of classes.

    contexts: `.npy` [N + 1, S, C], what a text encoder made of N captions, the last row the encoding of the empty
    string, which is the null context; `autonat encode-captions` makes it of a table.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    contexts: File


@dataclass(frozen=True, slots=True)
class TokenData:
    """Images as codes of a tokenizer in a file: a VQGAN, or what `autonat train-tokenizer` made.

    tokens: what is trained on, as `autonat tokenize` writes it; not needed where a trained network is given.
    num_classes: classes, or the number of captions.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str
    tokenizer: File
    num_classes: int
    grid: tuple[int, int] = (16, 16)
    codebook_size: int = 1024
    tokens: File | None = None
    captions: Captions | None = None
    kind: Literal["tokens"] = "tokens"


Data = Literal["digits"] | TokenData


@dataclass(frozen=True, slots=True)
class DataSizes:
    """What a network must fit."""

    grid: tuple[int, int]
    codebook_size: int
    num_classes: int

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]


def sizes_of(data: Data) -> DataSizes:
    """Sizes of a data set, known without opening a file."""
    if isinstance(data, TokenData):
        return DataSizes(data.grid, data.codebook_size, data.num_classes)
    tokenizer = GreyLevelTokenizer()
    return DataSizes(tokenizer.grid, tokenizer.codebook_size, image_set(data).num_classes)


def tokenizer_of(data: Data, device: torch.device | str = "cpu") -> Tokenizer:
    """The data's tokenizer, loaded. Raises FileError where the file's codebook is not what the recipe says."""
    if not isinstance(data, TokenData):
        return GreyLevelTokenizer()
    from models.tokenizer import NetworkTokenizer, load_tokenizer_network

    network = load_tokenizer_network(data.tokenizer.place)
    rows, columns = data.grid
    factor = network.config.downsampling
    tokenizer = NetworkTokenizer(network, rows * factor, columns * factor, device)
    if tokenizer.codebook_size != data.codebook_size:
        raise FileError(
            f"{data.tokenizer.path} has {tokenizer.codebook_size} codes, data.codebook_size says {data.codebook_size}"
        )
    return tokenizer


def training_tokens(data: Data) -> tuple[Tensor, Tensor]:
    """Codes [N, L] and classes [N] to train on; flipped copies are images of their own.

    Raises FileError where there are none, or where they do not fit the recipe's sizes.
    """
    if not isinstance(data, TokenData):
        images = image_set(data)
        tokens = GreyLevelTokenizer().encode(torch.from_numpy(images.train_images))
        return tokens, torch.from_numpy(images.train_labels)
    from models.token_files import read_tokens

    if data.tokens is None:
        raise FileError(f"data {data.name} has no tokens to train on: set data.tokens (see `autonat tokenize`)")
    sizes = sizes_of(data)
    table = read_tokens(data.tokens.place, codebook_size=sizes.codebook_size, num_classes=sizes.num_classes)
    if table.tokens_NL.shape[1] != sizes.num_tokens:
        raise FileError(
            f"{data.tokens.path} has {table.tokens_NL.shape[1]} tokens an image, data.grid says {sizes.num_tokens}"
        )
    parts, classes = [table.tokens_NL], [table.labels_N]
    if table.flipped_NL is not None:
        parts, classes = [*parts, table.flipped_NL], [*classes, table.labels_N]
    return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(np.concatenate(classes).astype(np.int64))


def with_conditions(network: Any, data: Data) -> Any:
    """The network with the data's captions attached; as it is where images have classes."""
    if not isinstance(data, TokenData) or data.captions is None:
        return network
    place = data.captions.contexts.place
    try:
        contexts = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileError(f"{place} is not a readable .npy file of contexts: {error}") from error
    if contexts.ndim != 3 or len(contexts) != data.num_classes + 1:
        raise FileError(
            f"{place} has shape {contexts.shape}: {data.num_classes} captions and the null context need "
            f"[{data.num_classes + 1}, tokens, width]"
        )
    if not np.issubdtype(contexts.dtype, np.floating):
        raise FileError(f"{place} holds {contexts.dtype}, not the floating-point numbers of contexts")
    try:
        return network.with_contexts(contexts[:-1], np.array(contexts[-1]))
    except ValueError as error:
        raise FileError(f"{place} does not fit the network: {error}") from error
