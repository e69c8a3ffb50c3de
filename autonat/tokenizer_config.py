"""Recipes of tokenizers: one YAML file, checked by Pydantic, overridden on the command line with ``a.b=c``."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field, model_validator

from autonat.errors import UserError
from autonat.recipe_files import Strict, checked, recipe_path
from autonat.specs import Compute
from models.files import File, FileError, as_file
from models.train_tokenizer import TokenizerTraining
from models.vq_autoencoder import AutoencoderConfig

FOLDER = "tokenizers"  # of studies/, where the built-in ones lie


class TokenizerRecipe(Strict):
    """A tokenizer, from images to a file.

    train, test: images to train on, and others to measure the reconstruction on: a folder, .parquet or .npz. compiled:
    with torch.compile, worth its minute on a GPU.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    seed: int = 0
    train: File
    test: File
    network: AutoencoderConfig = AutoencoderConfig()
    training: TokenizerTraining = TokenizerTraining()
    compute: Compute = Compute()
    compiled: bool = False

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return data | {key: as_file(data[key]) for key in ("train", "test") if key in data}

    def job(self) -> dict[str, Any]:
        """All that the trained file depends on, as plain JSON, files by their contents.

        Raises UserError for a file that is missing or is not the one it was.
        """
        content = self.model_dump(mode="json", include={"name", "seed", "compute", "compiled"})
        content |= {"network": self.network.to_dict(), "training": asdict(self.training)}
        for key, file in (("train", self.train), ("test", self.test)):
            try:
                content[key] = file.looked_at().sha256
            except FileError as error:
                raise UserError(f"{key}: {error}") from error
        return content


def load_tokenizer_recipe(name: str, overrides: Sequence[str] = ()) -> TokenizerRecipe:
    """The recipe at a path, or of a name in studies/tokenizers/. Raises UserError for anything wrong in it."""
    return checked(TokenizerRecipe, recipe_path(name, FOLDER), overrides)
