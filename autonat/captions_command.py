"""`autonat encode-captions`: a table of captions to the contexts that a text-conditional network reads."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from autonat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def run(
    table: Path,
    clip: Path,
    out: Path,
    console: "Console",
    *,
    column: str = "caption",
    dtype: str = "float32",
    batch_size: int = 64,
    device: str = "cpu",
) -> None:
    """Write the file, or go on with it. Everything the user can mend is a UserError in one line."""
    from autonat.image_progress import ImageProgress
    from models.captions import ClipEncoder, read_captions
    from models.context_files import DTYPES, encode_captions

    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: contexts are written as {' or '.join(DTYPES)}")
    if out.suffix != ".npy" or not out.parent.is_dir():
        raise UserError(f"--out {out}: need a .npy file in a folder that exists")
    try:
        captions = read_captions(table, column)
        encoder = ClipEncoder(clip, device)
        progress: list[ImageProgress] = []
        with ExitStack() as bars:

            def show(done: int, total: int) -> None:
                if not progress:
                    if done:
                        console.print(f"going on after {done:,} of {total:,} captions", highlight=False)
                    progress.append(bars.enter_context(ImageProgress(console, total, done, what="captions")))
                progress[0].reach(done)

            written = encode_captions(captions, encoder, out, dtype=dtype, batch_size=batch_size, on_progress=show)
    except (ValueError, RuntimeError, AssertionError) as error:  # torch's words for a device that is not there
        raise UserError(str(error)) from error
    rows = f"{len(captions):,} captions and the null context, 77 tokens of {encoder.width} {dtype} numbers"
    console.print(
        f"{out}: {rows}" if written else f"{out} is complete already", highlight=False, markup=False, soft_wrap=True
    )
