"""Sweeps (`-m`): jobs get exactly the values of the command line, and mistakes end in one line."""

import pytest
from omegaconf import OmegaConf

import roiseg.report
import roiseg.train
from roiseg.config.entry import user_message

QUICK = ["trainer.max_epochs=1", "test=false", "~callbacks.onnx_export", "~callbacks.overlays"]


def test_a_fixed_key_may_belong_to_swept_choices_only(run_main, tiny_overrides, tmp_path):
    swept = ["model=pyramid,pyramid_small", "model.margin=0", "variant='a, b'"]
    code, stderr = run_main(roiseg.train, "-m", *tiny_overrides, *QUICK, *swept)
    assert code == 0, stderr
    jobs = [OmegaConf.load(path) for path in sorted(tmp_path.glob("outputs/sweeps/*/*/config.yaml"))]
    assert [job.model.mid_channels for job in jobs] == [16, 16]
    assert [job.model.margin for job in jobs] == [0, 0]
    assert [job.variant for job in jobs] == ["a, b", "a, b"]
    assert [job.extractor.layers for job in jobs] == 2 * [["/model.6/Concat_output_0"]]


def test_a_misspelt_key_beside_swept_choices_is_named(refused, tiny_overrides):
    arguments = ["-m", *tiny_overrides, "model=pyramid,pyramid_small", "model.marginn=0"]
    refused(roiseg.train, arguments, "model.marginn", "model.margin")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "--cfg", "job"], ["--multirun", "--cfg"]),
        (["--info", "--cfg", "job"], ["--info", "--cfg"]),
        (["-sc", "nothing"], ["install", "query"]),
        (["--config-path", "nowhere"], ["nowhere", "not found"]),
    ],
)
def test_options_of_hydra_that_do_not_fit_are_explained(refused, options, words):
    refused(roiseg.report, options, *words)


def test_a_value_error_of_the_program_stays_one():
    assert user_message(ValueError("never raised")) is None
