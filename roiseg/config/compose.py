"""Compose configurations in Python, without a command line."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from roiseg.common.errors import UserError
from roiseg.common.files import home_path
from roiseg.common.package_files import default_root
from roiseg.config.argv import own_conf_dir, quote
from roiseg.config.entry import CONF_DIR, clear_left_out, expand_home, numeric_keys, user_message


def compose_run(output_dir: str | Path, *overrides: str, config: str = "train") -> DictConfig:
    """Compose the configuration of `python -m roiseg.train OVERRIDES`, for notebooks and scripts.

        cfg = compose_run("outputs/mine", "model=unet", "trainer.max_epochs=3")
        summary = roiseg.train.train(cfg)

    Relative paths start at the checkout, or at the working directory where roiseg is installed as a package.
    `train` writes to `output_dir`, or to one beside it where a run has that already; checkpoints to
    `checkpoints/` beside it.

    Args:
        output_dir: of the run, absolute, or relative to that folder.
        overrides: as on the command line.
        config: `train` or another command whose configuration is built on it (`preview`, `doctor`).

    Raises:
        UserError: an override that is not understood.
    """
    root = default_root()
    output = root / home_path(output_dir)
    places = {
        "root_dir": root,
        "output_dir": output,
        "checkpoint_dir": output.parent / "checkpoints" / output.name,
    }
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        try:
            words = (*(f"paths.{key}={path}" for key, path in places.items()), *overrides)
            quoted = [quote(word, numeric_keys(config)) for word in words]
            if (own := own_conf_dir()) is not None:
                quoted.append(quote(f"hydra.searchpath=['file://{own}']"))
            cfg = compose(config, overrides=quoted)
            clear_left_out(cfg, quoted)
            expand_home(cfg)
            return cfg
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(user_message(error, config) or str(error)) from None
