"""The device a command runs on."""

from __future__ import annotations

import torch

from roiseg.common.errors import UserError


def require_device(name: str | None) -> torch.device:
    """Return the device `name`; None: the GPU if there is one, else the CPU.

    Raises:
        UserError: torch does not know it or this machine does not have it.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"device={name} cannot be used ({reason}): set cpu, or cuda on a GPU machine"
        ) from None
