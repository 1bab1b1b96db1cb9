"""The configuration that Python gets is that of the command line."""

from helpers import ROOT

from roiseg.config.build import to_plain
from roiseg.config.compose import compose_run


def test_it_is_composed_with_overrides_and_lies_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = to_plain(compose_run("outputs/x y", "model=unet", "trainer.max_epochs=3", "data.folds=null"))
    assert config["model"]["_target_"].endswith("UNetDecoder")
    assert config["trainer"]["max_epochs"] == 3
    assert config["paths"]["output_dir"] == f"{ROOT}/outputs/x y"
    assert config["paths"]["checkpoint_dir"] == f"{ROOT}/outputs/checkpoints/x y"
    assert config["extractor"]["onnx_path"].startswith(f"{ROOT}/")


def test_an_absolute_folder_stays_and_configurations_do_not_mix(tmp_path):
    first, second = (
        compose_run(tmp_path / "a", "seed=1"),
        compose_run(tmp_path / "b", "seed=2", config="preview"),
    )
    assert to_plain(first)["paths"]["output_dir"] == str(tmp_path / "a")
    assert (first.seed, second.seed, "samples" in first, "samples" in second) == (1, 2, False, True)
