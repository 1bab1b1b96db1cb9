"""Runs a notebook from top to bottom: `python execute.py NOTEBOOK OUTPUT`, both nbformat 4.

As Jupyter does, but the cells reach IPython in the same process: between processes, kernel and client now and
then lose a request (ipython/ipykernel#1554, and kernels of before) and wait for each other. What an error has
left is written, too; it ends the run with code 1.
"""

import contextlib
import io
import os
import sys
from base64 import b64encode
from pathlib import Path

os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

import nbformat
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_output

outputs: list[nbformat.NotebookNode] = []  # of the cell that runs


def keep(kind, data, metadata):
    """Add an output of the cell that runs; images are text in notebooks."""
    text = {name: b64encode(v).decode() if isinstance(v, bytes) else v for name, v in data.items()}
    outputs.append(new_output(kind, text, metadata=metadata or {}))


class Publisher(DisplayPublisher):
    """Keeps what is displayed."""

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **more):
        keep("display_data", data, metadata)


class Hook(DisplayHook):
    """Keeps the value of a cell."""

    def write_output_prompt(self):
        """Notebooks number their cells."""

    def write_format_data(self, format_dict, md_dict=None):
        keep("execute_result", format_dict, md_dict)


class ZMQInteractiveShell(InteractiveShell):
    """Libraries know by this name that they are in a notebook."""

    display_pub_class = Publisher
    displayhook_class = Hook

    def enable_gui(self, gui=None):
        """There is none."""


def execute(notebook: nbformat.NotebookNode) -> BaseException | None:
    """Run the code cells, fill in their outputs, stop at the first error and return it."""
    shell = ZMQInteractiveShell.instance()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        outputs.clear()
        with contextlib.redirect_stdout(io.StringIO()) as text:
            done = shell.run_cell(cell.source, store_history=True)
        printed = [new_output("stream", name="stdout", text=text.getvalue())] if text.getvalue() else []
        cell.outputs = [*printed, *outputs]
        if error := done.error_before_exec or done.error_in_exec:
            return error
    return None


if __name__ == "__main__":
    content = nbformat.read(sys.argv[1], as_version=4)
    failed = execute(content)
    nbformat.write(content, Path(sys.argv[2]))
    if failed is not None:
        raise failed
