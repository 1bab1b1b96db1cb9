"""Rank tensors by a linear probe: how well their features alone tell the target from the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import spearman_corrcoef

from roiseg.common.classes import IGNORE, TARGET
from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.data.batch import RoiSample, collate
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.targets import TargetSpec
from roiseg.extractor.graph import load_onnx, model_digest
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.projection import principal_components, projection_of
from roiseg.extractor.tensors import TensorInfo, list_tensors, select
from roiseg.geometry.roi_align import roi_align
from roiseg.reporting.runs import read_runs
from roiseg.reporting.variants import check_comparable, find_variants

_GRID = 28  # cells of the probe over each ROI; its prediction is measured on twice as many
_CHANNELS = 16  # principal components of a tensor; more make no difference to trained decoders
_ROIS = 256  # at most
_FOLDS = 4  # of the images: each is measured with a probe fitted on the others
_RIDGE = 1e-3  # of the mean variance
_THRESHOLD = 0.4
_BYTES = 1 << 28  # of the tensors that are computed together for an image
_BEST = 12  # tensors of which pairs and triples are made
# operators whose result an activation still changes, or that only change another tensor's type or shape
_UNFINISHED = (
    "Conv", "BatchNormalization", "Sigmoid", "Cast", "Identity", "Reshape", "Transpose", "Slice", "Split",
)  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """One tensor, or several that are read together.

    Attributes:
        layers: for `extractor.layers`.
        iou: mean IoU 0..1 of the probe's masks on images it was not fitted to.
        cost: share 0..1 of the detector's multiply-accumulates needed for the deepest.
    """

    layers: tuple[str, ...]
    strides: tuple[int, ...]
    iou: float
    cost: float


def scout(cfg: DictConfig) -> tuple[list[Probed], list[Probed]]:
    """Probe the tensors that `tensors` selects (null: all that follow an activation) on training images.

    The probe is a ridge regression: from the features of 3 x 3 cells and a polynomial of the position in the
    ROI to the target's share of a cell.

    Returns:
        Single tensors, the best first; and the best pair and triple, found greedily.

    Raises:
        UserError: no tensor can be used, or there are too few images.
    """
    tensors = candidates(cfg)
    first = extractor_of(cfg, tensors[:1])
    data = probe_data(cfg, first)
    samples = roi_samples(data, cfg.scout)
    truth = Truth.of(samples)
    groups = list(by_size(tensors))
    crops: dict[str, Tensor] = {}
    for number, group in enumerate(groups, 1):
        text = f"features of {len(tensors)} tensors ({number}/{len(groups)})"
        crops |= crop_features(extractor_of(cfg, group), samples, text)
    known = {tensor.name: tensor for tensor in tensors}

    def probed(*layers: str) -> Probed:
        found = [known[layer] for layer in layers]
        strides = tuple(tensor.stride or 0 for tensor in found)
        iou = truth.probe([crops[layer] for layer in layers])
        return Probed(layers, strides, iou, max(tensor.cost for tensor in found))

    singles = sorted((probed(name) for name in track(known, "probing tensors")), key=lambda one: -one.iou)
    combined = list[Probed]()
    best = singles[0]
    for count in (2, 3):
        others = [one.layers[0] for one in singles[:_BEST] if one.layers[0] not in best.layers]
        if not others:
            break
        tried = (probed(*best.layers, other) for other in track(others, f"probing {count} together"))
        best = max(tried, key=lambda one: one.iou)
        combined.append(best)
    return singles, combined


def candidates(cfg: DictConfig) -> list[TensorInfo]:
    """Return the tensors to probe; without a pattern, those that a later activation does not change.

    Raises:
        UserError: none is left.
    """
    model, path = load_onnx(cfg.extractor.onnx_path), cfg.extractor.onnx_path
    size = instantiate(cfg.extractor.preprocess, _convert_="all").image_size
    tensors = list_tensors(model, size, path)
    if cfg.tensors is None:
        chosen = [tensor for tensor in tensors if tensor.operator not in _UNFINISHED]
    else:
        chosen = select(tensors, str(cfg.tensors))
    usable = [tensor for tensor in chosen if tensor.stride is not None]
    if not usable:
        raise UserError(
            f"tensors: none of {len(chosen)} tensors can be decoded; tensors='*' lists the reasons"
        )
    return usable


def by_size(tensors: Iterable[TensorInfo]) -> Iterator[list[TensorInfo]]:
    """Group tensors so that those of a group take little memory for an image."""
    group, held = list[TensorInfo](), 0
    for tensor in tensors:
        size = 4 * int(np.prod(tensor.shape or ()))
        if group and held + size > _BYTES:
            yield group
            group, held = [], 0
        group.append(tensor)
        held += size
    yield group


def extractor_of(cfg: DictConfig, tensors: Sequence[TensorInfo]) -> OnnxExtractor:
    """Build the extractor of a training that reads these tensors, with all their channels."""
    own = OmegaConf.merge(cfg.extractor, {"layers": [tensor.name for tensor in tensors], "project": None})
    return instantiate(own, _convert_="all")


def probe_data(cfg: DictConfig, extractor: OnnxExtractor) -> RoiDataModule:
    """Build the data with the training images for validation, too: exact boxes, no augmentation."""
    own = OmegaConf.merge(cfg.data, {
        "val_annotations": cfg.data.train_annotations, "val_images": cfg.data.train_images,
        "augment": None, "cache": None, "pool": None, "folds": None, "tta": None,
    })  # fmt: skip
    spec = TargetSpec("roi", (2 * _GRID, 2 * _GRID), 3, extractor.preprocess.image_size)
    data: RoiDataModule = instantiate(own, _partial_=True, _convert_="all")(extractor=extractor, spec=spec)
    data.prepare_data()
    data.setup()
    return data


def roi_samples(data: RoiDataModule, images: int) -> list[RoiSample]:
    """Return evenly spaced training images with ROIs, no more than needed for enough ROIs.

    Raises:
        UserError: fewer than 4 images have ROIs.
    """
    number = len(data.dataset("val"))
    items = np.unique(np.linspace(0, number - 1, images).astype(int)).tolist()
    found = [sample for sample in data.samples("val", items) if len(sample.rois)]
    if len(found) < _FOLDS:
        raise UserError(
            f"scout: {len(found)} of {len(items)} images have ROIs, {_FOLDS} are needed: raise scout"
        )
    total = np.cumsum([len(sample.rois) for sample in found])
    return found[: max(_FOLDS, int(np.searchsorted(total, _ROIS)) + 1)]


def crop_features(extractor: OnnxExtractor, samples: Sequence[RoiSample], text: str) -> dict[str, Tensor]:
    """Crop the main components of each tensor over every ROI: float16 [R, C, 28, 28] by name."""

    def features(some: Iterable[RoiSample]) -> Iterator[list[Tensor]]:
        for sample in some:
            yield extractor.tensors(extractor.preprocess(torch.from_numpy(sample.image)[None]))

    few = samples[:: max(1, len(samples) // 8)]
    components = principal_components(features(few), extractor.channels)
    projections = [projection_of([each], _CHANNELS) for each in components]
    crops = [list[Tensor]() for _ in projections]
    for sample, maps in zip(track(samples, text), features(samples), strict=True):
        rois = collate([sample]).rois
        for own, projection, one, stride in zip(crops, projections, maps, extractor.strides, strict=True):
            (small,) = projection([one.float()])
            own.append(roi_align(small, rois, (_GRID, _GRID), stride).half())
    return {name: torch.cat(own) for name, own in zip(extractor.layers, crops, strict=True)}


@dataclass(frozen=True)
class Truth:
    """What a probe is fitted to and measured with.

    Attributes:
        target: bool [R, 56, 56].
        counted: bool [R, 56, 56], false where the annotation is uncertain.
        fold: int [R], the same for all ROIs of an image.
    """

    target: Tensor
    counted: Tensor
    fold: Tensor

    @classmethod
    def of(cls, samples: Sequence[RoiSample]) -> Truth:
        """Collect the targets of images."""
        labels = torch.cat([torch.from_numpy(sample.targets) for sample in samples])
        folds = [torch.full((len(sample.rois),), number % _FOLDS) for number, sample in enumerate(samples)]
        return cls(labels == TARGET, labels != IGNORE, torch.cat(folds))

    def probe(self, crops: Sequence[Tensor]) -> float:
        """Return a probe's mean IoU with features [R, C_l, 28, 28], each fold predicted from the others."""
        inputs = torch.cat(
            [*map(_window, crops), _positions().expand(len(self.fold), -1, -1, -1)], 1
        ).flatten(2)
        wanted = F.avg_pool2d(self.target[:, None].float(), 2).flatten(1)
        parts = [inputs[self.fold == fold].transpose(0, 1).flatten(1) for fold in range(_FOLDS)]
        products = torch.stack([part @ part.T for part in parts])
        sums = torch.stack([part @ wanted[self.fold == fold].flatten() for fold, part in enumerate(parts)])
        shares = torch.empty_like(wanted)
        for fold in range(_FOLDS):
            matrix = products.sum(0) - products[fold]
            ridge = _RIDGE * matrix.diagonal().mean() * torch.eye(len(matrix))
            weights = torch.linalg.solve(matrix + ridge, sums.sum(0) - sums[fold])
            shares[self.fold == fold] = torch.einsum("ndk,d->nk", inputs[self.fold == fold], weights)
        shares = shares.unflatten(1, (1, _GRID, _GRID))
        masks = F.interpolate(shares, scale_factor=2, mode="bilinear")[:, 0] >= _THRESHOLD
        both = (masks & self.target & self.counted).sum((1, 2))
        either = ((masks | self.target) & self.counted).sum((1, 2))
        return float((both / either.clamp(min=1)).mean())


def _window(crops: Tensor) -> Tensor:
    """Return the values of each cell and its 8 neighbours, [R, 9 C, 28, 28]."""
    values = crops.float()
    values = values / values.std(dim=(0, 2, 3)).mean().clamp(
        min=1e-6
    )  # for the ridge; channels keep their ratios
    return F.unfold(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3).unflatten(2, (_GRID, _GRID))


def _positions() -> Tensor:
    """Return polynomials of the position in the ROI up to the fourth power, [15, 28, 28]."""
    cells = (torch.arange(_GRID) + 0.5) / _GRID * 2 - 1
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    powers = (
        (0, 0),
        (1, 0),
        (0, 1),
        (2, 0),
        (0, 2),
        (1, 1),
        (2, 1),
        (1, 2),
        (3, 0),
        (0, 3),
        (4, 0),
        (0, 4),
        (2, 2),
    )
    return torch.stack([x**i * y**j for i, j in powers])


def cheapest(singles: Sequence[Probed]) -> list[Probed]:
    """Return the tensors that are better than all of the same or lower cost, the cheapest first."""
    front = list[Probed]()
    for one in sorted(singles, key=lambda one: (one.cost, -one.iou)):
        if not front or one.iou > front[-1].iou:
            front.append(one)
    return front


def trained_ious(folder: str, onnx_path: str) -> dict[tuple[str, ...], float]:
    """Return the mean instance IoU of the runs in a folder, by `extractor.layers`, over all their test ROIs.

    Raises:
        UserError: a run is of another detector than `onnx_path`, or the runs differ in more than tensors,
            seed and fold; and see `read_runs` and `check_comparable`.
    """
    runs, _ = read_runs([folder])
    load_onnx(onnx_path)  # refuses what is no model
    digest = model_digest(onnx_path)
    for run in runs:
        own = run.config.get("extractor.sha256")
        if own is not None and not digest.startswith(own):
            raise UserError(
                f"runs: {run.folder} was trained on another detector than {onnx_path} "
                "(its SHA-256 differs): give the folder of a sweep with this one"
            )
    check_comparable(runs)
    variants, others = find_variants(runs, ["extractor.layers"])
    if others:
        raise UserError(
            f"runs: the runs in {folder} differ in {others[0]}, too: give the folder of one sweep over "
            "extractor.layers"
        )
    measured = dict[tuple[str, ...], float]()
    for variant in variants:
        some = list(variant.runs.values())
        layers = some[0].config.get("extractor.layers")
        names = tuple(map(str, layers if isinstance(layers, list) else [layers]))
        measured[names] = float(np.mean(np.concatenate([run.rois.iou for run in some])))
    return measured


def rank_correlation(
    probed: Sequence[Probed], trained: Mapping[tuple[str, ...], float]
) -> tuple[int, float] | None:
    """Return how many tensors were also trained, and Spearman's rank correlation; None for fewer than 3."""
    pairs = [(one.iou, trained[one.layers]) for one in probed if one.layers in trained]
    if len(pairs) < 3:
        return None
    by_probe, by_training = torch.tensor(pairs).T
    return len(pairs), float(spearman_corrcoef(by_probe, by_training))


def probe_table(
    singles: Sequence[Probed],
    combined: Sequence[Probed],
    trained: Mapping[tuple[str, ...], float],
    best: int = 10,
) -> Table:
    """Lay out the best tensors, those best for their cost, the best pair and triple, and all trained ones."""
    front = cheapest(singles)
    table = Table(title="tensors by a linear probe (cost: share of the detector's computation)")
    widest = max(len(layer) for one in (*singles, *combined) for layer in one.layers)
    table.add_column("extractor.layers", min_width=widest + 1, overflow="fold")
    for name in ("stride", "cost", "probe's IoU", *(["trained"] if trained else [])):
        table.add_column(name, justify="right")
    table.add_column("")
    measured = [one for one in singles if one.layers in trained]
    shown = sorted({*singles[:best], *front, *measured}, key=lambda one: -one.iou)
    for one in (*shown, *combined):
        mark = "best for its cost" if one in front else "" if len(one.layers) == 1 else "best together"
        strides = ", ".join(map(str, one.strides))
        reached = [f"{trained[one.layers]:.3f}" if one.layers in trained else ""] if trained else []
        name = escape(",\n".join(one.layers))
        table.add_row(name, strides, f"{one.cost:.0%}", f"{one.iou:.3f}", *reached, mark)
    return table
