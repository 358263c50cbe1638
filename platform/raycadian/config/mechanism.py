"""The mechanism of a model, and the priors of its parameters."""

from typing import Literal

from pydantic import Field

from raycadian.config.schema import Positive, Schema


class Normal(Schema):
    """A prior: mean and standard deviation in the parameter's own unit."""

    mean: float
    sd: float = Field(gt=0, le=1e6)


class Prior(Schema):
    """Priors of the CMA's parameters (facts: defaults are the means); a parameter left out has no prior."""

    d: Normal | None = Normal(mean=0.0, sd=3.0)
    taup: Normal | None = Normal(mean=1.0, sd=0.5)
    taug: Normal | None = Normal(mean=1.0, sd=0.5)
    B: Normal | None = Normal(mean=0.05, sd=0.1)
    Cm: Normal | None = Normal(mean=0.0, sd=0.5)
    toff: Normal | None = Normal(mean=0.0, sd=1.0)


class CMAMechanism(Schema):
    """The cortisol-melatonin-adiponectin model as the mechanism, refitted on a rolling schedule."""

    kind: Literal["cma"] = "cma"
    refit_days: float = Field(7.0, ge=1 / 24)
    """Days between refits; each uses data before its cutoff only."""
    history_days: Positive = 14.0
    """Days before the cutoff that a fit uses at most."""
    min_days: Positive = 1.0
    """Days of data needed before a person's own fit; the training population's parameters serve until then."""
    meals: int = Field(3, ge=1, le=6)
    gains: Literal["one", "per_meal"] = "one"
    """one: all meals raise glucose in the same measure · per_meal: each in its own, solved in closed form."""
    starts: int = Field(4, ge=1, le=40)
    prior_weight: float = Field(1.0, ge=0)
    """Weight of the priors against the data: 1 is the maximum a posteriori, 0 ignores them."""
    prior: Prior = Prior()
