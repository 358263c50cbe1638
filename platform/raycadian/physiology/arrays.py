"""NumPy arrays in, NumPy arrays out; tensors in, tensors out: the equations are written once, for tensors."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray
ArrayLike = Array | float | Sequence[float]


class Like(NamedTuple):
    """Inputs as tensors, and what turns results into the inputs' kind."""

    back: Callable[[Any], Any]
    tensors: list[Tensor]


def like(*values: ArrayLike | None) -> Like:
    """Tensors of `values`, and a function `back` for results made of them (a tensor, or a dict, list or tuple of some).

    Tensors stay as they are, and so do results, where any value is a tensor; the others then take the first one's dtype
    and device. Without a tensor everything is NumPy's: float32 stays so, other numbers are float64, and results are
    arrays. None counts for nothing and stays None.
    """
    first = next((value for value in values if isinstance(value, Tensor)), None)
    if first is None:
        return Like(_to_numpy, [None if value is None else _of_array(value) for value in values])
    kind = {"dtype": first.dtype, "device": first.device}
    return Like(_unchanged, [v if v is None or isinstance(v, Tensor) else torch.as_tensor(v, **kind) for v in values])


def _of_array(value: np.ndarray | float | Sequence[float]) -> Tensor:
    array = np.asarray(value)
    return torch.from_numpy(np.array(array, dtype=np.float32 if array.dtype == np.float32 else np.float64))


def _unchanged(result: Any) -> Any:
    return result


def _to_numpy(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.numpy()
    if isinstance(result, dict):
        return {name: _to_numpy(value) for name, value in result.items()}
    values = [_to_numpy(value) for value in result]
    return type(result)(*values) if hasattr(result, "_fields") else type(result)(values)
