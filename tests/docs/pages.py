"""Runs a page of docs/ as its readers do: box by box, in one folder."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys

from helpers import ROOT

# added to every training: one short epoch of a small decoder
SHORT = [
    "trainer=cpu", "trainer.max_epochs=1", "data.batch_size=2", "data.num_workers=0",
    "model.mid_channels=16", "model.min_channels=8", "model.depth=1", "~callbacks.onnx_export",
]  # fmt: skip
MARK = {"yaml": "# ", "python": "# ", "js": "// "}


def boxes(page):
    """(language, text) of every fenced box of a page."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(text):
    """The lines of a shell box, continued ones joined."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


class Reader:
    """Does what a page says in `folder`; `run_main` runs a command of roiseg in this process."""

    def __init__(self, folder, run_main):
        self.folder, self.run_main = folder, run_main
        self.left_out = []  # commands whose program is not on this machine

    def read(self, page):
        for language, text in boxes(page):
            if language == "bash":
                for line in commands(text):
                    self.command(line)
            else:
                self.write(language, text)

    def write(self, language, text):
        """Make the file that a box's first line names; configuration goes beside conf/."""
        first, _, body = text.partition("\n")
        assert first.startswith(MARK[language]), f"the box must begin with its file's name: {first}"
        path = self.folder / first.removeprefix(MARK[language])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)

    def command(self, line):
        if not line.startswith("python -m roiseg."):
            self.program(line)
            return
        _, _, name, *arguments = self.shell(f"printf '%s\\0' {line}").split("\0")[:-1]
        module = importlib.import_module(name)
        short = SHORT if name == "roiseg.train" else []
        own = [f"hydra.searchpath=[file://{self.folder / 'conf'}]"] if (self.folder / "conf").is_dir() else []
        code, stderr = self.run_main(module, *arguments, *short, *own)
        assert code == 0, f"{line}\n{stderr}"

    def program(self, line):
        """A line that is no command of roiseg."""
        if line.startswith("python "):
            line = line.replace("python", sys.executable, 1)
        elif not self.available(line.split()[0]):
            self.left_out.append(line)
            return
        self.shell(line)

    def available(self, program):
        """Is the program there, and for node its packages (NODE_MODULES names their folder)?"""
        if shutil.which(program) is None:
            return False
        return program != "node" or (self.folder / "node_modules" / "onnxruntime-node").is_dir()

    def shell(self, line):
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        return done.stdout
