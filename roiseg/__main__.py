"""`roiseg COMMAND ...` and `python -m roiseg COMMAND ...`: the commands, and a list of them."""

from __future__ import annotations

import runpy
import sys

from roiseg.common.errors import closest_matches

COMMANDS = {
    "train": "train a decoder, test it, export it to ONNX",
    "evaluate": "measure a checkpoint, an exported file, or both",
    "predict": "write the masks of images, folders and videos",
    "export": "write a checkpoint as a verified ONNX file, or check such a file",
    "decide": "fit how masks follow from class probabilities, on held-out folds",
    "report": "compare finished runs in one table",
    "preview": "show augmented training images with their ROIs and targets",
    "analyze": "measure class shares, overlap and sizes of the ROIs of an annotation file",
    "prepare": "make data/ from COCO 2017",
    "doctor": "check the setup before training; compare the cost of decoders",
    "app": "serve a local web page that runs checkpoints on images",
    "demo": "make the embedded data set and the embedded detector",
}


def usage() -> str:
    """List the commands."""
    lines = (f"  {name:<9} {what}" for name, what in COMMANDS.items())
    return "usage: roiseg COMMAND [key=value ...]\n\n{}\n\nroiseg COMMAND --help lists its options".format(
        "\n".join(lines)
    )


def main() -> None:
    """Run the command that the first word names, as `python -m roiseg.COMMAND` does."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(usage())
    elif name in COMMANDS:
        del sys.argv[1]
        # alter_sys: processes that Lightning or a data loader starts see the command's own module
        runpy.run_module(f"roiseg.{name}", run_name="__main__", alter_sys=True)
    else:
        close = ", ".join(closest_matches(name, COMMANDS))
        sys.exit(f"roiseg: error: there is no command `{name}` (nearest: {close}; roiseg --help lists all)")


if __name__ == "__main__":
    main()
