"""The built wheel predicts and trains outside the checkout, with nothing of ours but `roiseg` in site-packages."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
from hatchling.builders.wheel import WheelBuilder
from helpers import ROOT

pytestmark = pytest.mark.slow

# the environment of the tests has the checkout on its path, too: remove it
ISOLATED = f'import sys; sys.path = [entry for entry in sys.path if entry not in ("", {str(ROOT)!r})]; '
MODULE = "import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"
PREDICTOR = """import roiseg
from roiseg.config.compose import default_root
predictor = roiseg.Predictor.from_checkpoint(sys.argv[1])
predictor.set_image(roiseg.read_image(sys.argv[2]))
print(roiseg.__file__, default_root(), len(predictor.predict([[4, 4, 40, 40]]).masks()))"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder that an installation would fill."""
    (built,) = WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    folder = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(built).extractall(folder)
    return folder


def run(wheel, folder, code, *words):
    done = subprocess.run(
        [sys.executable, "-c", ISOLATED + code, *words], cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(wheel)), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_one_package(wheel):
    assert sorted(path.name.partition("-")[0] for path in wheel.iterdir()) == ["roiseg", "roiseg"]
    ours = (
        "conf/train.yaml",
        "callbacks/history.py",
        "web/static/index.html",
        "data/prepare/coco128/sha256.txt",
    )
    shipped = [
        f"ext_extractor/{name}"
        for name in ("tiny_person_256.onnx", "yolox_nano.onnx", "yolox_nano_person.pth")
    ]
    assert [name for name in (*ours, *shipped) if not (wheel / "roiseg" / name).is_file()] == []


def test_training_and_prediction_run_from_the_wheel(wheel, tmp_path):
    sizes = ["data.source.train_images=2", "data.source.val_images=2", "data.batch_size=2"]
    quick = ["trainer.max_epochs=1", "data.num_workers=0", "callbacks=minimal", "test=false"]
    run(wheel, tmp_path, MODULE.format("roiseg.train"), *sizes, *quick)
    detector = tmp_path / "ext_extractor" / "tiny_person_256.onnx"  # copied, not trained
    assert detector.read_bytes() == (ROOT / "ext_extractor" / detector.name).read_bytes()

    (checkpoint,) = (tmp_path / "checkpoints").rglob("*.pth")
    images = tmp_path / "data/synthetic/images/val2017"
    words = [f"source={images}", f"ckpt={checkpoint}", "output_dir=found", "writers=[coco]"]
    printed = run(wheel, tmp_path, MODULE.format("roiseg.predict"), *words)
    assert "labels" not in printed  # no doubt about the detector's class
    assert len(json.loads((tmp_path / "found/coco_images.json").read_text())) == 2

    printed = run(wheel, tmp_path, PREDICTOR, checkpoint, next(images.glob("*.jpg")))
    assert printed.split() == [str(wheel / "roiseg/__init__.py"), str(tmp_path), "1"]
