"""Train the projection of `extractor.project` with a decoder, to compare it with principal components.

`python -m benchmarks.learned_projection FOLDER OVERRIDE...`, with the overrides of a training with cached
features and `extractor.project`. The training starts at the principal components and reads all channels. The
learned projection replaces them in FOLDER, where a training with the same overrides and
`paths.index_dir=FOLDER` finds it, fixed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from torch import nn

from benchmarks.training import configuration, make_run
from roiseg.common.console import console
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


def learn(folder: Path, index: Path, *overrides: str) -> tuple[Path, Projection, Projection]:
    """Train a decoder and its projection on all channels.

    Args:
        folder: for everything that the training writes.
        index: folder of projections.
        overrides: of the training, with `extractor.project`.

    Returns:
        The file of the fitted projection, this projection, and the learned one.
    """
    overrides = (*overrides, f"paths.index_dir={index}")
    compact = make_run(folder, *overrides)
    extractor, fitted = compact.data.extractor, compact.data.extractor.projection
    assert fitted is not None, "give extractor.project"
    extractor.projection = None
    path = projection_file(extractor, compact.data.dataset("train"), index)
    extractor.project = None
    whole = make_run(folder, *overrides, "extractor.project=null", extractor=extractor)
    compact.module.decoder.projection = learned = trainable(fitted)
    unwatched = ("+trainer.limit_val_batches=0", "+trainer.enable_checkpointing=false")
    trainer = build.build_trainer(configuration(folder, *overrides, *unwatched), [], [])
    with silence_lightning_warnings():
        trainer.fit(compact.module, datamodule=whole.data)
    return path, fitted, learned


def main(arguments: list[str] | None = None) -> None:
    """Learn a projection and store it."""
    index, *overrides = sys.argv[1:] if arguments is None else arguments
    with tempfile.TemporaryDirectory() as folder:
        path, fitted, learned = learn(Path(folder), Path(index).absolute(), *overrides)
    for (name, before), after in zip(fitted.named_buffers(), learned.parameters(), strict=True):
        change = (after - before).norm() / before.norm()
        console.print(f"{name}: changed by {100 * float(change.detach()):.0f} % of its norm", highlight=False)
    write_projection(path, learned)
    console.print(str(path), highlight=False)


if __name__ == "__main__":
    main()
