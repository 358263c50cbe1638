"""A small convolutional network for a label: what a larger one has to beat."""

import itertools

import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models.base import ModelSpec, TrainingWindows
from raycadian.models.label import LabelModel
from raycadian.models.scaling import Scaling
from raycadian.types import Batch


class CNN(LabelModel):
    """Blocks of convolution, normalisation, GELU, dropout, each `stride` times shorter and twice as wide; the mean and
    the maximum over what time is left go to the head. Channels are standardised by training windows."""

    def __init__(self, spec: ModelSpec, section: config.CNN):
        super().__init__(spec, section)
        if spec.context < section.stride**section.blocks:
            raise ValueError(
                f"cnn shortens the window {section.stride}^{section.blocks} times; found {spec.context} points; lower "
                "cnn.blocks or cnn.stride, or lengthen the window"
            )
        self.scaling = Scaling(len(spec.past))
        widths = [len(spec.past), *(section.width * 2**i for i in range(section.blocks))]
        self.backbone = nn.Sequential(*(_block(a, b, section) for a, b in itertools.pairwise(widths)))
        self.head = nn.Linear(2 * widths[-1], spec.labels)

    def score(self, batch: Batch) -> Tensor:
        states = self.backbone(self.scaling(batch).mT)  # (B, width, time)
        pooled = torch.cat([states.mean(-1), states.amax(-1)], dim=1)
        return self.head(pooled).view(-1, *self.spec.label_shape)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        self.scaling.fit_statistics(windows)


def _block(wide: int, wider: int, section: config.CNN) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(wide, wider, section.kernel, stride=section.stride, padding=section.kernel // 2),
        nn.GroupNorm(1, wider),  # knows nothing of other windows, so that batches don't matter
        nn.GELU(),
        nn.Dropout(section.dropout),
    )
