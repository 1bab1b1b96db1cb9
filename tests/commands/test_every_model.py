"""Every choice of `model=` through the real command: one batch of training and validation each."""

import pytest

import roiseg.train
from roiseg.config.entry import CONF_DIR

pytestmark = pytest.mark.slow_except("roialign")

LAYERS = "/model.1/act/Relu_output_0,/model.3/Concat_output_0,/model.6/Concat_output_0"  # strides 2, 4, 8


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml")))
def test_fast_dev_run(run_main, tiny_overrides, model):
    kept = [o for o in tiny_overrides if not o.startswith(("model.", "extractor.layers", "trainer"))]
    loss = [f"loss={model}"] if (CONF_DIR / "loss" / f"{model}.yaml").is_file() else []
    arguments = [*kept, f"extractor.layers=[{LAYERS}]", f"model={model}", *loss, "debug=fdr"]
    code, stderr = run_main(roiseg.train, *arguments)
    assert code == 0, stderr
