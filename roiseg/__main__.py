"""`roiseg COMMAND ...` and `python -m roiseg COMMAND ...`: the commands, and a list of them."""

from __future__ import annotations

import runpy
import sys
from typing import NoReturn

from roiseg.common.console import flush_output, print_text
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
    "prepare": "make data/ from COCO 2017, or an example of 61 photographs",
    "doctor": "check the setup before training; compare the cost of decoders",
    "app": "serve a local web page that runs checkpoints on images",
    "demo": "make the embedded data set and the embedded detector",
}


# Hydra knows the keys and choices of a command; it expects one word before them
_COMPLETION = """\
_roiseg() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} line choices
    if [ "$COMP_CWORD" = 1 ]; then
        choices="{commands}"
    else
        line="roiseg ${{COMP_LINE#*${{COMP_WORDS[1]}} }}"
        choices=$(COMP_LINE=$line COMP_POINT=${{#line}} "${{COMP_WORDS[@]:0:2}}" -sc query=bash 2>/dev/null)
    fi
    COMPREPLY=($(compgen -o default -W "$choices" -- "$word"))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}} complete -o nospace -o default -F _roiseg roiseg
"""


def usage() -> str:
    """List the commands."""
    lines = (f"  {name:<9} {what}" for name, what in COMMANDS.items())
    return (
        "usage: roiseg COMMAND [key=value ...]\n\n{}\n\nroiseg COMMAND --help lists its options\n"
        'eval "$(roiseg --completion)" completes commands, keys and choices in bash'
    ).format("\n".join(lines))


def main() -> None:
    """Run the command that the first word names, as `python -m roiseg.COMMAND` does."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        _print(usage())
    elif name == "--completion":
        _print(_COMPLETION.format(commands=" ".join(COMMANDS)))
    elif name in COMMANDS:
        del sys.argv[1]
        # alter_sys: processes that Lightning or a data loader starts see the command's own module
        runpy.run_module(f"roiseg.{name}", run_name="__main__", alter_sys=True)
    else:
        close = ", ".join(closest_matches(name, COMMANDS))
        _fail(f"there is no command `{name}` (nearest: {close}; roiseg --help lists all)")


def _print(text: str) -> None:
    try:
        print_text(text)
    except OSError as error:
        flush_output()
        _fail(f"what is printed cannot be written ({error.strerror})")


def _fail(line: str) -> NoReturn:
    print(f"roiseg: error: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
