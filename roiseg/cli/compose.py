"""Configurations for Python: what a command line would compose, without the command line."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from roiseg.cli.entry import CONF_DIR, explain
from roiseg.common.errors import UserError

CHECKOUT = CONF_DIR.parent


def compose_run(output_dir: str | Path, *overrides: str, config: str = "train") -> DictConfig:
    """The configuration of `python -m roiseg.train OVERRIDES`, for notebooks and scripts.

        cfg = compose_run("outputs/mine", "model=unet", "trainer.max_epochs=3")
        summary = roiseg.train.train(cfg)

    Relative paths are meant from the checkout, wherever Python was started; `train` writes to `output_dir`,
    or to one beside it where a run has that already.

    Args:
        output_dir: of the run.
        overrides: as on the command line; values with special characters need the same quotes within.
        config: `train` or another command whose configuration is built on it (`preview`, `models`).

    Raises:
        UserError: an override that means nothing.
    """
    places = [f"paths.root_dir='{CHECKOUT}'", f"paths.output_dir='{CHECKOUT / output_dir}'"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        try:
            return compose(config, overrides=[*places, *overrides])
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error, config) or str(error)) from None
