"""Gradient-boosted trees: grown by XGBoost (the one door to it), kept as tensors.

A checkpoint is then the usual safetensors, nothing of it is parsed by XGBoost, and serving needs torch alone.
"""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Trees(nn.Module):
    """Features (B, F), NaN = missing -> (B,), the sum over trees of a leaf's value.

    Trees stand as heaps, (T, N): the children of node i are 2 i + 1 (feature < threshold) and 2 i + 2; a leaf has
    feature
    -1. Missing values go where training sent them.
    """

    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    value: Tensor
    base: Tensor

    def __init__(self, trees: int, depth: int):
        super().__init__()
        shape = (trees, 2 ** (depth + 1) - 1)
        self.depth = depth
        self.register_buffer("feature", torch.full(shape, -1, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(shape))
        self.register_buffer("missing_left", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("base", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        return self.base + self.leaves(features).sum(1)

    def leaves(self, features: Tensor) -> Tensor:
        """(B, T): what each tree adds."""
        node = torch.zeros(len(features), len(self.feature), dtype=torch.long, device=features.device)
        tree = torch.arange(len(self.feature), device=features.device)
        for _ in range(self.depth):
            feature = self.feature[tree, node].long()
            x = features.gather(1, feature.clamp(min=0))
            left = torch.where(x.isnan(), self.missing_left[tree, node], x < self.threshold[tree, node])
            node = torch.where(feature < 0, node, 2 * node + 2 - left.long())
        return self.value[tree, node]

    def keep(self, count: int) -> None:
        """The first `count` trees alone; the others add nothing from now on."""
        self.feature[count:] = -1
        self.value[count:] = 0.0

    def grow(
        self, features: np.ndarray, label: np.ndarray, weight: np.ndarray, *, objective: str, lr: float, l2: float,
        min_weight: float, positive_weight: float = 1.0,
    ) -> None:  # fmt: skip
        """Fit to label (N,) from features (N, F), NaN = missing, each row with its weight (N,): all the trees, in
        XGBoost's histogram method, without any random draw. `objective`: binary:logistic (the sum is a log odds) or
        reg:squarederror. `min_weight`: of the rows (their Hessian) in a leaf, at least."""
        import xgboost  # 1 s that other models don't pay

        settings = {
            "objective": objective, "max_depth": self.depth, "learning_rate": lr, "reg_lambda": l2,
            "min_child_weight": min_weight, "scale_pos_weight": positive_weight, "tree_method": "hist",
            "nthread": torch.get_num_threads(), "verbosity": 0,
        }  # fmt: skip
        data = xgboost.DMatrix(features.astype(np.float32), label=label, weight=weight)
        booster = xgboost.train(settings, data, num_boost_round=len(self.feature))
        self._place(json.loads(bytes(booster.save_raw("json"))), objective)

    def _place(self, grown: dict[str, Any], objective: str) -> None:
        learner = grown["learner"]
        base = float(json.loads(learner["learner_model_param"]["base_score"])[0])
        self.base.fill_(np.log(base / (1 - base)) if objective == "binary:logistic" else base)
        for t, tree in enumerate(learner["gradient_booster"]["model"]["trees"]):
            self._place_node(t, tree, 0, 0)

    def _place_node(self, t: int, tree: dict[str, Any], theirs: int, ours: int) -> None:
        left, right = tree["left_children"][theirs], tree["right_children"][theirs]
        if left < 0:
            self.value[t, ours] = tree["split_conditions"][theirs]  # of a leaf, XGBoost's name for its value
            return
        self.feature[t, ours] = tree["split_indices"][theirs]
        self.threshold[t, ours] = tree["split_conditions"][theirs]
        self.missing_left[t, ours] = bool(tree["default_left"][theirs])
        self._place_node(t, tree, left, 2 * ours + 1)
        self._place_node(t, tree, right, 2 * ours + 2)
