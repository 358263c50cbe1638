"""Every schema of a recipe and a search space. Cards are in modalities/."""

from raycadian.config.adapters import Adapter, AttentionLora, HeadOnly, LastN, Lora, NoAdapter, PATAdapter
from raycadian.config.experiments import (
    Ablation,
    CrossValidation,
    DataEfficiency,
    Experiment,
    Nocturnal,
    Personalisation,
    Transfer,
)
from raycadian.config.label_models import (
    CNN,
    PAT,
    Boosting,
    FeatureNet,
    Features,
    LabelModelConfig,
    LastValue,
    PretrainedNetwork,
    Statistics,
    TTMLabel,
)
from raycadian.config.mechanism import CMAMechanism, Normal, Prior
from raycadian.config.metric import MONITORS, Metric
from raycadian.config.model_base import ModelConfig, innermost, mechanism_of, model_name, signals_of, staged_of, unwrap
from raycadian.config.models import (
    CMA,
    LSTM,
    MLP,
    TTM,
    Conformal,
    Ensemble,
    Exogenous,
    Head,
    Masked,
    Model,
    Persistence,
    Physics,
    Residual,
    Ridge,
    Seasonal,
    Simulated,
    Stack,
    Staged,
)
from raycadian.config.recipe import Recipe, load_recipe, total_epochs
from raycadian.config.schema import override, parse, with_value
from raycadian.config.space import Choice, LogUniform, RandInt, SearchSpace, Uniform, load_space
from raycadian.config.tasks import (
    Ahead,
    Classification,
    Column,
    Forecasting,
    Hypotension,
    LabelTask,
    Pretraining,
    Regression,
    Task,
)
from raycadian.config.training import Evaluation, Tracking, Training, Tuning
from raycadian.config.units import in_unit_of, unit_of, waveform_kind
from raycadian.config.windows import Anchor, Grid, LabelWindow, PersonDays, Split, Window
