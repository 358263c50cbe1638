"""Every model of a label, small, on windows of made-up signals: shared by the tests of models and checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raycadian import config
from raycadian.models.base import Model, ModelSpec
from raycadian.models.build import build
from raycadian.types import Batch

POINTS = 180
SPEC = ModelSpec(POINTS, 0, 1.0, ("activity",), (), (), task="classify", balanced=True)
REGRESS = replace(SPEC, task="regress", balanced=False)
PRETRAIN = replace(SPEC, task="pretrain", balanced=False)

PAT = config.PAT(dropout=0.0)
PAT_LORA = PAT.model_copy(update={"adapter": config.AttentionLora(rank=2)})
TTM = config.TTMLabel(d_model=8, layers=2, patch_length=30, dropout=0.0)
TREES = config.Boosting(trees=20)
CASES: dict[str, config.Model] = {
    "statistics": config.Statistics(),
    "last": config.LastValue(channel="activity", over_s=1800),
    "feature-net": config.FeatureNet(dropout=0.0),
    "boosting": TREES,
    "cnn": config.CNN(width=4, blocks=2, dropout=0.0),
    "pat": PAT,
    "pat-conv": PAT.model_copy(update={"embedding": "conv", "standardise": "window"}),
    "pat-lora": PAT_LORA,
    "pat-head": PAT.model_copy(update={"adapter": config.HeadOnly()}),
    "pat-last": PAT.model_copy(update={"size": "medium", "adapter": config.LastN(n=1), "standardise": "window"}),
    "ttm": TTM,
    "ttm-lora": TTM.model_copy(update={"adapter": config.Lora(rank=2)}),
    "ttm-head": TTM.model_copy(update={"adapter": config.HeadOnly(), "head": "mlp"}),
    "ttm-mixed-pieces": TTM.model_copy(update={"channels": "mixed", "pieces": 2, "head": "mlp"}),
    "stack": config.Stack(members=(PAT, TREES)),
}
MASKED: dict[str, config.Model] = {
    "masked-pat": config.Masked(inner=PAT),
    "masked-pat-hidden": config.Masked(inner=PAT, error="hidden"),
    "masked-ttm": config.Masked(inner=TTM, share=0.5),
    "masked-ttm-mixed-pieces": config.Masked(inner=CASES["ttm-mixed-pieces"], share=0.5),
}


@dataclass(frozen=True)
class Held:
    """Windows that are held in memory, with the interface that `prepare` and `calibrate` ask for."""

    rows: Batch

    def __len__(self) -> int:
        return len(self.rows["past"])

    def batch(self, index: Tensor) -> Batch:
        return {name: value[index] for name, value in self.rows.items()}

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return (self.batch(part) for part in torch.arange(len(self)).split(batch_size))

    def labels(self) -> Tensor:
        return self.rows["label"]

    def weights(self) -> Tensor:
        return self.rows.get("weight", torch.ones(len(self)))


def windows(spec: ModelSpec = SPEC, n: int = 96, seed: int = 0) -> Held:
    """Noise about a level; a label where a slow wave is strong and the level low: to be learnt, not from one of
    them."""
    generator = torch.Generator().manual_seed(seed)
    channels = len(spec.past)
    wave, level = torch.rand(2, n, 1, 1, generator=generator)
    time = torch.arange(spec.context).view(1, -1, 1) / spec.context
    phase = torch.rand(n, 1, channels, generator=generator)
    past = 40 * level + 30 * wave * torch.sin(2 * torch.pi * (3 * time + phase))
    past = 50 + past + 5 * torch.randn(n, spec.context, channels, generator=generator)
    mask = torch.rand(past.shape, generator=generator) > 0.05
    past = torch.where(mask, past, past.mean())
    # local_h and time_s: Sunday, 23:59
    rows = {"past": past, "past_mask": mask, "known": torch.zeros(n, spec.context, 0), "subject": torch.arange(n) // 4,
            "local_h": torch.full((n,), 23.983334), "time_s": torch.full((n,), 1_768_175_940)}  # fmt: skip
    if spec.task == "pretrain":
        return Held(rows)
    amount = (wave - 0.6 * level).flatten()
    label = (amount > 0.25).float() if spec.task == "classify" else 10 * amount + 100
    return Held(rows | {"label": label})


def prepared(section: config.Model, training: Held, spec: ModelSpec = SPEC, seed: int = 0) -> Model:
    """An untrained model with its statistics, ready to predict."""
    torch.manual_seed(seed)
    model = build(section, spec)
    model.fit_statistics(training)
    return model.eval()
