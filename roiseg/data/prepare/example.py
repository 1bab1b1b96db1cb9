"""The example: 61 photographs of COCO with 254 persons, on which `experiment=coco128_best` trains."""

from __future__ import annotations

from pathlib import Path

from roiseg.common.files import atomic_path, read_json
from roiseg.common.locks import locked
from roiseg.common.outputs import check_folder
from roiseg.data.prepare.download import fetch
from roiseg.data.prepare.persons import SPLITS, FileReport, Prepared, layout_of
from roiseg.data.prepare.sources import require_space

# annotations (CC BY 4.0, COCO Consortium) and checksums of the images
_FILES = Path(__file__).with_name("coco128")
_SIZE = 20e6


def prepare_example(output_dir: str | Path, base_url: str) -> Prepared:
    """Create `coco128_person/` in a folder: the images, downloaded one by one, and their annotations.

    Both splits are of COCO's train2017; a seeded shuffle made 15 of the 61 images val2017.

    Args:
        output_dir: folder that gets `coco128_person/`.
        base_url: where the images are downloaded from.

    Raises:
        UserError: an image cannot be downloaded, or the folder cannot be written.
    """
    layout = layout_of(Path(output_dir) / "coco128_person", [])
    check_folder(layout.root, "output_dir")
    require_space(layout.root, int(_SIZE), "the example")
    made: list[Path] = []
    with locked(layout.root / ".lock", wait=True):
        for line in (_FILES / "sha256.txt").read_text(encoding="utf-8").splitlines():
            checksum, name = line.split()
            path = layout.root / "images" / name
            if not path.exists():
                made.append(path)
            fetch(f"{base_url.rstrip('/')}/train2017/{path.name}", path, checksum)
        reports = []
        for split in SPLITS:
            path = layout.annotations(split)
            content = (_FILES / path.name).read_bytes()
            if not path.is_file() or path.read_bytes() != content:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)
                made.append(path)
            reports.append(FileReport.of(path, read_json(path, "annotations")))
    return Prepared(reports, made)
