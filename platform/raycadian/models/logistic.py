"""Logistic regression and least squares on a few variables, to convergence."""

import numpy as np

_RIDGE = 1e-3  # of the weights of standardised variables: keeps them finite where a variable separates the labels


def fit(
    x: np.ndarray, label: np.ndarray, *, logistic: bool, weight: np.ndarray | None = None, nonnegative: bool = False
) -> tuple[np.ndarray, float]:
    """(weights (F,), constant) for x (N, F) and label (N,), each row with its weight: the least mean cross entropy of
    log odds x w + b (`logistic`), or mean squared error, and a ridge of 1e-3 on standardised variables."""
    centre, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (x - centre) / spread
    weight = np.ones(len(x)) if weight is None else weight
    weight = weight / weight.sum()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slopes = parameters[:-1]
        score = z @ slopes + parameters[-1]
        if logistic:
            value = weight @ (np.logaddexp(0.0, score) - label * score)
            error = weight * (0.5 * (1 + np.tanh(score / 2)) - label)
        else:
            value, error = 0.5 * weight @ (score - label) ** 2, weight * (score - label)
        gradient = np.append(z.T @ error + _RIDGE * slopes, error.sum())
        return value + 0.5 * _RIDGE * slopes @ slopes, gradient

    from scipy.optimize import minimize  # here: it takes half a second

    bounds = [(0.0 if nonnegative else None, None)] * x.shape[1] + [(None, None)]
    best = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, bounds=bounds, method="L-BFGS-B", tol=1e-12).x
    slope = best[:-1] / spread
    return slope, float(best[-1] - slope @ centre)
