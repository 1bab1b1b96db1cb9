"""The only model that one feature layer does not do for: the command with three layers, and with one."""

from __future__ import annotations

import pytest

import roiseg.train

pytestmark = pytest.mark.slow

LAYERS = ["/model.1/act/Relu_output_0", "/model.6/Concat_output_0", "/model.3/Concat_output_0"]  # 2, 8, 4


@pytest.fixture
def overrides(tiny_overrides):
    kept = [o for o in tiny_overrides if not o.startswith(("model.", "extractor.layers", "trainer.max"))]
    return [*kept, "model=fcn8s", "model.fc_channels=8", "trainer.max_epochs=1"]


def test_fcn8s_trains_and_exports_on_three_layers_in_any_order(run_main, overrides, tmp_path):
    code, stderr = run_main(roiseg.train, *overrides, f"extractor.layers=[{','.join(LAYERS)}]")
    assert code == 0, stderr
    assert [p.name[:21] for p in tmp_path.rglob("*.pth")] == ["checkpoint_epoch_0001"]
    assert len(list(tmp_path.rglob("*.onnx"))) >= 1


@pytest.mark.parametrize(("layers", "strides"), [(LAYERS[:1], "2"), (LAYERS[:2], "2, 8")])
def test_fcn8s_on_other_layers_says_which_it_needs(refused, overrides, tmp_path, layers, strides):
    line = refused(roiseg.train, [*overrides, f"extractor.layers=[{','.join(layers)}]"])
    assert line == (
        "roiseg: error: model=fcn8s needs three feature layers whose strides double (8, 16, 32), got "
        f"strides ({strides}): set extractor.layers to three such tensors"
    )
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and "coco" not in str(p)]
