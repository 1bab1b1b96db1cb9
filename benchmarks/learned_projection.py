"""Train the projection of `extractor.project` with a decoder, to compare it with principal components.

`python -m benchmarks.learned_projection FOLDER OVERRIDE...`, with the overrides of a training with cached
features and `extractor.project`. The training starts at the principal components and reads all channels. The
learned projection is written to FOLDER, where a training with the same overrides and `paths.index_dir=FOLDER`
finds it and keeps it fixed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from benchmarks.training import configuration, make_run
from roiseg.common.console import console
from roiseg.common.errors import UserError
from roiseg.config import build
from roiseg.config.lightning_messages import silence_lightning_warnings
from roiseg.data.feature_projection import projection_file
from roiseg.extractor.projection import Projection, write_projection


def trainable(fitted: Projection) -> Projection:
    """Return a projection that starts at the numbers of a fitted one and is trained with the decoder."""
    projection = Projection(fitted.channels, fitted.size)
    for name, value in list(fitted.named_buffers()):
        delattr(projection, name)
        projection.register_parameter(name, nn.Parameter(value.clone()))
    return projection


def learn(folder: Path, target: Path, *overrides: str) -> tuple[Path, Projection, Projection]:
    """Train a decoder and its projection on all channels.

    Args:
        folder: for everything that the training writes.
        target: folder for the learned projection.
        overrides: of the training, with `extractor.project`.

    Returns:
        The file for the learned projection in `target`, the fitted projection and the learned one.

    Raises:
        UserError: `extractor.project` is missing, or the file exists.
    """
    overrides = (*overrides, f"paths.index_dir={folder / 'index'}")
    compact = make_run(folder, *overrides)
    extractor, fitted = compact.data.extractor, compact.data.extractor.projection
    if fitted is None:
        raise UserError("extractor.project: give the number of channels")
    extractor.projection = None
    path = projection_file(extractor, compact.data.dataset("train"), target)
    if path.exists():
        raise UserError(f"{path}: this projection exists: give another folder")
    extractor.project = None
    whole = make_run(folder, *overrides, "extractor.project=null", extractor=extractor)
    compact.module.decoder.projection = learned = trainable(fitted)
    unwatched = ("+trainer.limit_val_batches=0", "+trainer.enable_checkpointing=false")
    trainer = build.build_trainer(configuration(folder, *overrides, *unwatched), [], [])
    with silence_lightning_warnings():
        trainer.fit(compact.module, datamodule=whole.data)
    return path, fitted, learned


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn a projection and store it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learned_projection", description=__doc__)
    parser.add_argument("folder", type=Path, help="for the learned projection")
    parser.add_argument("overrides", nargs="+", help="of the training")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path, fitted, learned = learn(Path(folder), given.folder.absolute(), *given.overrides)
    for (name, before), after in zip(fitted.named_buffers(), learned.parameters(), strict=True):
        change = (after - before).norm() / before.norm()
        console.print(f"{name}: changed by {100 * float(change.detach()):.0f} % of its norm", highlight=False)
    write_projection(path, learned)
    console.print(str(path), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
