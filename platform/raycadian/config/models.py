"""A section a model, and what can be asked of them without building any."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import Field, field_validator, model_validator

from raycadian.config.mechanism import CMAMechanism
from raycadian.config.schema import Count, Fraction, Positive, Schema, unsaid


class NoAdapter(Schema):
    kind: Literal["full"] = "full"
    """Every weight trains."""


class HeadOnly(Schema):
    kind: Literal["head"] = "head"
    """The backbone is frozen, the head trains."""


class LastN(Schema):
    kind: Literal["last_n"] = "last_n"
    """The last n mixer layers and the head train."""
    n: Count = 1


class Lora(Schema):
    kind: Literal["lora"] = "lora"
    rank: Count = 8
    alpha: Positive = 16
    dropout: Fraction = 0.0
    target_modules: tuple[str, ...] = ("fc1", "fc2", "attn_layer")


class AttentionLora(Lora):
    """LoRA of PAT, whose layers have other names."""

    target_modules: tuple[str, ...] = ("query", "key", "value", "output")


Adapter = Annotated[Union[NoAdapter, HeadOnly, LastN, Lora], Field(discriminator="kind")]


PATAdapter = Annotated[Union[NoAdapter, HeadOnly, LastN, AttentionLora], Field(discriminator="kind")]


Head = Literal["quantiles", "student_t"]
"""quantiles: trained by the pinball loss · student_t: a distribution, trained by its likelihood, whose quantiles serve."""


class Persistence(Schema):
    """The last reading goes on."""

    kind: Literal["persistence"] = "persistence"


class Seasonal(Schema):
    """The same hour yesterday; needs a context of at least 24 h."""

    kind: Literal["seasonal"] = "seasonal"


class Ridge(Schema):
    """Direct multi-step linear autoregression with an L2 penalty."""

    kind: Literal["ridge"] = "ridge"
    lags: Count = 12
    basis: Literal["lagged", "changes"] = "lagged"
    """lagged: differences to the last value · changes: from point to point, so that a penalty smooths."""
    alpha: float = Field(1.0, ge=0)
    """Penalty. lagged: in units of the mean squared lagged difference, over all windows together. changes: in units of each
    variable's variance, a window: the same strength whatever their number; 0.01 to 0.1 is usual."""
    exogenous: bool = False
    """Each step also takes the known channels at its own time."""


class CMA(Schema):
    """The mechanism alone."""

    kind: Literal["cma"] = "cma"
    mechanism: CMAMechanism = CMAMechanism()


class LSTM(Schema):
    """bloodTwin's LSTM (facts/models.md): last hidden state -> Linear, ReLU, Dropout -> Linear."""

    kind: Literal["lstm"] = "lstm"
    hidden: Count = 128
    layers: Count = 2
    dropout: Fraction = 0.2
    exogenous: bool = False
    """The known channels enter: over the context into the LSTM, over the horizon into the head."""
    head: Head = "quantiles"


class MLP(Schema):
    """A small network on the latest changes of glucose, beside a linear autoregression on them."""

    kind: Literal["mlp"] = "mlp"
    lags: Count = 48
    """Changes from point to point that it sees."""
    hidden: Count = 128
    layers: Count = 2
    dropout: Fraction = 0.1
    hour: bool = True
    """The hour of day enters."""
    level_noise: float = Field(0.0, ge=0)
    """Standard deviation of noise on the level while training, in units of the level's own: it then relies on the changes,
    and does better for people whose glucose lies elsewhere than that of those it was trained on."""
    head: Head = "quantiles"


class TTM(Schema):
    """Tiny Time Mixer (granite-tsfm)."""

    kind: Literal["ttm"] = "ttm"
    pretrained: str | None = None
    """None: random start. A local folder or a hub name: that checkpoint; never replaced silently."""
    d_model: Count = 64
    layers: Count = 3
    patch_length: Count = 12
    dropout: Fraction = 0.1
    adapter: Adapter = NoAdapter()
    exogenous: bool = False
    """The known channels enter as granite's exogenous channels, and are mixed into every step of the forecast."""
    head: Head = "quantiles"


SharedMechanism = CMAMechanism | None
"""One model has one mechanism: what is nested says null (or the same again)."""


class Residual(Schema):
    """Mechanism + learned correction: the inner model sees and predicts what the mechanism leaves over."""

    kind: Literal["residual"] = "residual"
    mechanism: SharedMechanism = CMAMechanism()
    inner: "Model"


Signal = Literal["glucose", "L", "m", "c", "a", "I_S", "I_E", "meal_distr"]


class Exogenous(Schema):
    """The mechanism's signals as further known channels of the inner model, one of whose parts says `exogenous: true`."""

    kind: Literal["exogenous"] = "exogenous"
    mechanism: SharedMechanism = CMAMechanism()
    signals: tuple[Signal, ...] = Field(("glucose", "L", "m", "c", "a", "I_S", "I_E"), min_length=1)
    """glucose: the mechanism's curve · L light, m melatonin, c cortisol, a adiponectin, I_S insulin sensitivity, I_E
    effective insulin · meal_distr: meal distribution."""
    inner: "Model"

    @field_validator("signals")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"signals are distinct; found {list(value)}")
        return value


class Physics(Schema):
    """The inner model, held to the mechanism's rate of change while it trains."""

    kind: Literal["physics"] = "physics"
    mechanism: SharedMechanism = CMAMechanism()
    weight: float = Field(1e-3, ge=0)
    """mg/dL of loss for one (mg/dL per hour)^2 of mean squared difference between the rates."""
    inner: "Model"


class Simulated(Schema):
    """People simulated by the mechanism, their parameters drawn from its priors."""

    subjects: Count = 64
    days: Count = 7
    seed: int = 0


class Staged(Schema):
    """Training in stages: on simulated people, on real ones with the backbone frozen, then mechanism and weights in turn."""

    kind: Literal["staged"] = "staged"
    mechanism: SharedMechanism = CMAMechanism()
    simulated: Simulated = Simulated()
    pretrain_epochs: int = Field(5, ge=0)
    """Epochs on simulated people, all weights; 0 leaves the stage out."""
    frozen_epochs: int = Field(2, ge=0)
    """Epochs on the training data with the backbone frozen; 0 leaves the stage out."""
    rounds: int = Field(1, ge=0)
    """After training.epochs on the training data: how often the mechanism is fitted again, to glucose less the learned
    correction, and the weights trained again (training.epochs each). Needs a residual inside."""
    inner: "Model"


class Ensemble(Schema):
    """Several models trained side by side: their mean, widened by how far they are apart."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple["Model", ...] = Field(min_length=1)
    size: Count = 1
    """Copies of each member; they differ in their random start."""
    weights: Literal["equal", "validation"] = "equal"
    """validation: those that make the mean's squared error least on validation data, none below 0, drawn towards equal."""

    @model_validator(mode="after")
    def _several(self) -> "Ensemble":
        if len(self.members) * self.size < 2:
            raise ValueError("an ensemble of one is no ensemble: name more members, or set size")
        return self


class Conformal(Schema):
    """Conformal prediction: every quantile moved, step by step, to where it belongs on data that was not trained on."""

    kind: Literal["conformal"] = "conformal"
    folds: int = Field(0, ge=0)
    """0: placed on validation windows. k: on everybody of the training data, in k groups of people, each scored by a model
    that was trained without it, which takes k more trainings; sweeps leave them out. Outermost only."""
    inner: "Model"

    @field_validator("folds")
    @classmethod
    def _several(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one group leaves nobody to train on: 0 for none, or 2 and more")
        return value


class LabelModelConfig(Schema):
    """A model of the tasks classify and regress; the others forecast."""


Features = Literal["statistics", "rhythm"]
"""statistics: of each channel's values · rhythm: of the rest and activity of whole days by the minute."""


class Statistics(LabelModelConfig):
    """Linear in variables made by hand: logistic regression or least squares."""

    kind: Literal["statistics"] = "statistics"
    features: Features = "statistics"


class FeatureNet(LabelModelConfig):
    """A small network on variables made by hand, with a head for all labels."""

    kind: Literal["feature_net"] = "feature_net"
    features: Features = "statistics"
    hidden: Count = 32
    dropout: Fraction = 0.2


class LastValue(LabelModelConfig):
    """What a channel was last: as the forecast of a number, or as the one variable of a logistic regression."""

    kind: Literal["last"] = "last"
    channel: str
    over_s: Positive = 10.0
    """Seconds at the end of the window that are averaged: of an arterial pressure, its mean."""


class Boosting(LabelModelConfig):
    """Gradient-boosted trees on variables made by hand; a missing one is a branch of its own."""

    kind: Literal["boosting"] = "boosting"
    features: Features = "statistics"
    trees: Count = 300
    """Trees that are grown; validation data say how many of them are kept."""
    depth: int = Field(3, ge=1, le=10)
    lr: Positive = 0.05
    l2: float = Field(1.0, ge=0)
    min_weight: float = Field(5.0, ge=0)
    """Weight of the windows in a leaf (of the log odds' curvature: p (1 - p) each), at least."""


class CNN(LabelModelConfig):
    """A small convolutional network over time."""

    kind: Literal["cnn"] = "cnn"
    width: Count = 32
    """Channels of the first block; each block after has twice as many."""
    blocks: Count = 3
    kernel: int = Field(7, ge=3)
    stride: int = Field(4, ge=2)
    """A block shortens time by it."""
    dropout: Fraction = 0.1

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"a kernel has a middle: an odd number; found {value}")
        return value


LabelHead = Literal["linear", "mlp"]


Cycle = Literal["C", "D", "G", "H"]
"""NHANES cycles with a week of accelerometry, by the letter of their files: 2003-04, 2005-06, 2011-12, 2013-14."""


Seen = Literal["refuse", "allow"]
"""allow: train and score on an NHANES cycle that the pretraining has seen. People whom a run of ours has learnt from stay refused."""


class TTMLabel(LabelModelConfig):
    """TTM's backbone (granite-tsfm) with a head for a label. `adapter: {kind: head}` leaves the backbone as it is."""

    kind: Literal["ttm_label"] = "ttm_label"
    pretrained: str | None = None
    """None: random start. A local folder or a hub name of granite's format, or the checkpoint folder of a run of `masked`."""
    d_model: Count = 64
    layers: Count = 3
    patch_length: Count = 50
    """Points; at 125 Hz 0.4 s."""
    dropout: Fraction = 0.1
    adapter: Adapter = NoAdapter()
    channels: Literal["independent", "mixed"] = "independent"
    """independent: each goes through the backbone alone and the head joins them · mixed: every layer mixes them."""
    pieces: Count = 1
    """The context is cut into so many equal pieces, each of which goes through the backbone alone; the head joins them."""
    head: LabelHead = "linear"
    cycles: tuple[Cycle, ...] | None = Field(None, exclude_if=unsaid)
    """NHANES cycles that the pretraining has seen, as a run of `masked` recorded them; granite's weights have seen none."""
    seen: Seen = Field("refuse", exclude_if=lambda said: said == "refuse")


class PAT(LabelModelConfig):
    """Pretrained Actigraphy Transformer: a week of minutes (10080 points; any multiple of its patch)."""

    kind: Literal["pat"] = "pat"
    size: Literal["small", "medium", "large", "huge"] = "small"
    """0.29, 1.0, 2.0 or 4.0 million weights."""
    embedding: Literal["dense", "conv"] = "dense"
    pretrained: str | None = None
    """None: random start. A published .h5 of the same size and embedding, or the checkpoint folder of a run of `masked`."""
    cycles: tuple[Cycle, ...] | None = None
    """NHANES cycles that the pretraining has seen: no task is one of theirs. Known of PAT-*_29k and PAT-*_21k by the file's
    name and of our own checkpoints; said here of other files, [] for none. The checkpoint keeps it, and a pretraining adds its data's."""
    seen: Seen = "refuse"
    standardise: Literal["minute", "window"] = "minute"
    """By mean and standard deviation of training: minute, of each minute of the window, as the published weights were
    trained (windows then begin at one time of day) · window, of all together."""
    dropout: Fraction = 0.1
    hidden: Count = 128
    """Width of the head."""
    adapter: PATAdapter = NoAdapter()


class Stack(LabelModelConfig):
    """Several models of a label: a logistic regression (or least squares) of validation labels on their scores, no weight
    below 0. It is calibrated by its making."""

    kind: Literal["stack"] = "stack"
    members: tuple["Model", ...] = Field(min_length=2)

    @field_validator("members")
    @classmethod
    def _of_labels(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if other := [m.kind for m in value if not isinstance(m, LabelModelConfig)]:
            raise ValueError(f"{', '.join(other)}: no model of a label; there are {', '.join(kinds(LabelModelConfig))}")
        return value


class Masked(Schema):
    """Pretraining without labels: patches are hidden, and the network learns to rebuild the signal."""

    kind: Literal["masked"] = "masked"
    inner: Annotated[PAT | TTMLabel, Field(discriminator="kind")]
    """The network; its head and adapter have no part in it. A later recipe takes it up by `pretrained: <checkpoint>`."""
    share: float = Field(0.9, gt=0, lt=1)
    """Of the patches, hidden."""
    error: Literal["all", "hidden"] = "all"
    """Which points the squared error is counted on; PAT's authors found `hidden` far worse."""


Model = Annotated[
    Union[
        Persistence, Seasonal, Ridge, CMA, LSTM, MLP, TTM,
        Statistics, FeatureNet, LastValue, Boosting, CNN, TTMLabel, PAT, Stack, Masked,
        Residual, Exogenous, Physics, Staged, Ensemble, Conformal,
    ],
    Field(discriminator="kind"),
]  # fmt: skip


for _wrapper in (Stack, Residual, Exogenous, Physics, Staged, Ensemble, Conformal):
    _wrapper.model_rebuild()


def kinds(base: type[Schema]) -> list[str]:
    return sorted(c.model_fields["kind"].default for c in base.__subclasses__())


def wrapped(model: Any) -> tuple[Any, ...]:
    """The configurations that a model's wraps directly."""
    match model:
        case Ensemble():
            return model.members * model.size
        case Stack():
            return model.members
        case Masked() | Residual() | Exogenous() | Physics() | Staged() | Conformal():
            return (model.inner,)
    return ()


def unwrap(model: Any) -> list[Any]:
    """The model's configuration and all those inside it, outermost first."""
    return [model, *(found for inner in wrapped(model) for found in unwrap(inner))]


def mechanism_of(model: Any) -> CMAMechanism | None:
    """The mechanism that a model's batches must carry, if any."""
    return next((m.mechanism for m in unwrap(model) if getattr(m, "mechanism", None) is not None), None)


def signals_of(model: Any) -> tuple[str, ...]:
    """The mechanism's signals that a model's batches must carry beside its curve."""
    asked = dict.fromkeys(s for m in unwrap(model) if isinstance(m, Exogenous) for s in m.signals)
    return tuple(s for s in asked if s != "glucose")


def staged_of(model: Any) -> Staged | None:
    """How a model trains in stages, if it does."""
    return next((m for m in unwrap(model) if isinstance(m, Staged)), None)


def model_name(model: Any) -> str:
    """Short readable name, fit for a file: `ridge`, `residual-ttm`, `ensemble3-ttm`, `ensemble-residual-ttm_lstm`."""
    match model:
        case Ensemble():
            return f"ensemble{model.size if model.size > 1 else ''}-{'_'.join(map(model_name, model.members))}"
        case TTMLabel() | PAT() if not isinstance(model.adapter, NoAdapter):
            return f"{model.kind}_{model.adapter.kind}"
    return "-".join([model.kind, *map(model_name, wrapped(model))])


def require_nesting(model: Any) -> None:
    """Raises ValueError where wrappers don't fit each other."""
    inside = unwrap(model)
    mechanisms = [m.mechanism for m in inside if hasattr(m, "mechanism")]
    if mechanisms and not any(mechanisms):
        raise ValueError(
            f"{model_name(model)}: no part names its mechanism; give the outermost one, e.g. {{kind: cma}}"
        )
    if len(named := list({repr(m): m for m in mechanisms if m}.values())) > 1:
        raise ValueError(
            f"{model_name(model)}: a model has one mechanism, found {len(named)} that differ; set `mechanism: null` in all "
            "parts but the outermost"
        )
    for part in inside:
        if isinstance(part, Exogenous) and not any(getattr(m, "exogenous", False) for m in unwrap(part.inner)):
            raise ValueError(
                f"{model_name(part)}: no model inside takes known channels; set `exogenous: true` in a ttm, lstm or ridge"
            )
        if isinstance(part, Staged):
            _require_stages(part)
        if isinstance(part, Conformal) and part.folds and part is not model:
            raise ValueError(
                "conformal.folds trains all that is inside again: put that conformal outermost, or set folds: 0"
            )
        if isinstance(part, Ensemble) and any(isinstance(m, Staged) for m in unwrap(part)):
            raise ValueError("stages are those of a whole training: put `staged` around the ensemble, not inside")


def _require_stages(staged: Staged) -> None:
    inside = unwrap(staged.inner)
    if any(isinstance(m, Staged) for m in inside):
        raise ValueError("staged inside staged: a training has one list of stages")
    if not any(isinstance(m, TTM | LSTM | MLP) for m in inside):
        raise ValueError(f"{model_name(staged)}: stages need weights that train; put a ttm, lstm or mlp inside")
    if staged.rounds and not any(isinstance(m, Residual) for m in inside):
        raise ValueError(
            f"{model_name(staged)}: rounds refit the mechanism to glucose less the correction, which only a residual has; "
            "put one inside or set rounds: 0"
        )
