"""Bfloat16 is used only where it is fast: on a GPU, and on CPUs with AVX-512."""

import pytest
import torch
from composing import composed

import roiseg.doctor
import roiseg.evaluate
from roiseg.common.precision import fastest_precision, slow_on_cpu
from roiseg.train import train


@pytest.fixture(params=["AVX2", "DEFAULT", "NEON", "AVX512"])
def expected(request, monkeypatch):
    """The fastest precision of this CPU."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    return "bf16-mixed" if request.param == "AVX512" else "32-true"


def test_the_recipes_train_in_the_fastest_precision(expected, tmp_path):
    for name in ("coco128_best", "coco128_ablation", "decoder/unet"):
        config = composed([f"experiment={name}", "trainer=cpu"], tmp_path)
        assert config.trainer.precision == expected
    chosen = composed(["experiment=coco128_best", "trainer.precision=16-mixed"], tmp_path)
    assert chosen.trainer.precision == "16-mixed"


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_a_gpu_decides_if_it_is_used(expected, accelerator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fastest_precision(accelerator) == "bf16-mixed"
    assert fastest_precision("cpu") == expected


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16", "16-mixed", 16])
def test_only_half_precision_is_slow_and_the_message_says_what_to_set(expected, precision):
    told = slow_on_cpu(precision, "precision")
    assert bool(told) == (expected == "32-true")
    assert not told or (f"precision={precision} " in told and told.endswith("precision=32-true"))
    assert not any(slow_on_cpu(exact) for exact in ("32-true", "32", 32, None))


def test_commands_warn_and_name_their_own_option(expected, finished, run_main, tmp_path, caplog):
    shared = [*finished.overrides, "~callbacks.onnx_export", "trainer=cpu", "trainer.precision=bf16-mixed"]
    slow = expected == "32-true"
    train(composed([*shared, "trainer.max_epochs=1", "test=false"], tmp_path))
    assert ("set trainer.precision=32-true" in caplog.text) == slow
    report = tmp_path / "doctor.json"
    run_main(roiseg.doctor, *shared, f"output={report}")
    assert ("set trainer.precision=32-true" in report.read_text()) == slow
    options = ["device=cpu", "precision=bf16-mixed", "data.num_workers=0", f"output_dir={tmp_path}/evaluated"]
    code, stderr = run_main(roiseg.evaluate, f"ckpt={finished.checkpoint}", *options)
    assert code == 0, stderr
    assert ("set precision=32-true" in run_main.printed) == slow
