"""Run a page of docs/ as its readers do: block by block, in one folder."""

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
MARK = {"yaml": "# ", "python": "# ", "csv": "# ", "js": "// "}
ENTRY = ", in "  # "# roiseg/x.py, in NAME": the block is an entry of that tuple


def blocks(page):
    """(language, text) of every fenced block of a page."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


class Reader:
    """Follow a page in `folder`.

    Args:
        folder: empty, or with the files that the page takes for granted.
        run_main: runs a command of roiseg in this process.
        monkeypatch: undoes what a page adds to the package.
        training: overrides added to every training, unless the page sets their key.
    """

    def __init__(self, folder, run_main, monkeypatch, training=SHORT):
        self.folder, self.run_main, self.monkeypatch, self.training = folder, run_main, monkeypatch, training
        self.left_out = []  # commands whose program is not installed

    def read(self, page):
        for language, text in blocks(page):
            if language == "bash":
                for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
                    self.command(line)
            else:
                self.write(language, text)

    def write(self, language, text):
        """Make the file, or add the entry, that the first line of a block names."""
        first, _, body = text.partition("\n")
        assert first.startswith(MARK[language]), f"the block must begin with its file's name: {first}"
        name, _, entries = first.removeprefix(MARK[language]).partition(ENTRY)
        if entries:
            return self.add_entry(name, entries, body)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
        if name.startswith("roiseg/"):
            package = importlib.import_module(name.rpartition("/")[0].replace("/", "."))
            self.monkeypatch.setattr(package, "__path__", [*package.__path__, str(path.parent)])

    def add_entry(self, file, name, text):
        """Add entries to a tuple of the package, in every module that has imported it."""
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        before = getattr(module, name)
        after = (*before, *eval(f"({text})", vars(module)))
        for loaded in [m for m in sys.modules.values() if getattr(m, "__dict__", {}).get(name) is before]:
            self.monkeypatch.setattr(loaded, name, after)

    def command(self, line):
        if not line.startswith("python -m roiseg."):
            return self.program(line)
        _, _, name, *arguments = self.shell(f"printf '%s\\0' {line}").split("\0")[:-1]
        more = []
        if name == "roiseg.train":
            more = [o for o in self.training if o.partition("=")[0].lstrip("~") not in line]
            if " data=" in line:  # which brings its own files
                more = [o for o in more if not o.startswith(("data.train_", "data.val_"))]
        code, stderr = self.run_main(importlib.import_module(name), *arguments, *more)
        assert code == 0, f"{line}\n{stderr}"

    def program(self, line):
        """Run a line that is not a command of roiseg."""
        if line.startswith("python "):
            line = line.replace("python", sys.executable, 1)
        elif not self.available(line.split()[0]):
            self.left_out.append(line)
            return
        self.shell(line)

    def available(self, program):
        """Tell whether a program is installed, and for node its packages (in the folder NODE_MODULES)."""
        if shutil.which(program) is None:
            return False
        return program != "node" or (self.folder / "node_modules" / "onnxruntime-node").is_dir()

    def shell(self, line):
        given = ["bash", "-c", line]
        done = subprocess.run(given, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        return done.stdout
