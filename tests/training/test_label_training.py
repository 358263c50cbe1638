"""Networks for labels in the training loop: from pretraining without labels to a score that finds them."""

import helpers
import numpy as np
import pytest
import torch
from label_cases import PAT, POINTS, PRETRAIN, SPEC, TREES, windows

from raycadian import config
from raycadian.config import Training
from raycadian.data.label_windows import LabelledWindows
from raycadian.data.series import build_series
from raycadian.models import checkpoint
from raycadian.models.build import build
from raycadian.training import loop
from raycadian.types import Recording

SETTINGS = Training(epochs=4, batch_size=32, lr=1e-3, warmup_steps=0, device="cpu", schedule="constant")


def labelled(people, seed):
    """A window a recording of label_cases' signals, four windows a person."""
    held = windows(n=4 * people, seed=seed)
    found = {}
    for i in range(people):
        found[f"p{i:02d}"] = [
            Recording(
                subject=f"p{i:02d}", index=k, start_utc=np.datetime64("2026-01-05T00:00", "s") + k * 86400,
                utc_offset_min=0, dt_s=60.0, channels={"activity": held.rows["past"][4 * i + k, :, 0].numpy()},
                observed=held.rows["past_mask"][4 * i + k, :, 0].numpy(),
            )
            for k in range(4)
        ]  # fmt: skip
    series = build_series(helpers.People(found), ("activity",))
    first = np.arange(4 * people) * POINTS
    return LabelledWindows(series, first, held.rows["label"].numpy(), POINTS)


@pytest.fixture(scope="module")
def data():
    return labelled(48, 0), labelled(24, 1)


def auroc(model, held):
    score = model(held.batch(torch.arange(len(held)))).score.detach()
    label = held.labels() == 1
    return (score[label][:, None] > score[~label]).float().mean().item()


def trained(section, data, spec=SPEC, **changes):
    loop.seed_everything(0)
    model = build(section, spec)
    model.fit_statistics(data[0])
    told = loop.train(model, *data, SETTINGS.model_copy(update=changes))
    model.calibrate(data[1])
    return model, told


@pytest.mark.parametrize(
    "section",
    [PAT, config.Statistics(), TREES, config.Stack(members=(PAT, TREES))],
    ids=["pat", "lr", "trees", "stack"],
)
def test_the_loop_finds_the_label_of_people_it_has_not_seen(section, data):
    model, told = trained(section, data)
    fresh = labelled(24, 2)
    assert auroc(model, fresh) > 0.75
    if not isinstance(section, config.Stack):
        assert told.history[-1]["val/auroc"] > 0.7


def test_labels_that_say_nothing_are_not_found(data):
    rng = np.random.default_rng(0)
    shuffled = [LabelledWindows(d.series, d.first, rng.permutation(d.label), d.context) for d in data]
    model, _ = trained(PAT, shuffled)
    fresh = labelled(48, 2)
    assert 0.35 < auroc(model, fresh) < 0.65


@pytest.mark.slow
def test_from_pretraining_to_a_probe(data, tmp_path):
    first, told = trained(config.Masked(inner=PAT.model_copy(update={"cycles": ()}), share=0.5), data, PRETRAIN)
    assert told.history[-1]["val/loss"] < told.history[0]["val/loss"]
    checkpoint.save(first, tmp_path / "pretrained")
    probe = PAT.model_copy(update={"pretrained": str(tmp_path / "pretrained"), "adapter": config.HeadOnly()})
    model, _ = trained(probe, data, lr=5e-3)
    assert auroc(model, labelled(24, 2)) > 0.7
    encoder = checkpoint.load(tmp_path / "pretrained").encoder.state_dict()
    assert all(torch.equal(value, encoder[name]) for name, value in model.encoder.state_dict().items())


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(
    ("section", "spec"),
    [(config.Masked(inner=PAT.model_copy(update={"cycles": ()})), PRETRAIN), (PAT, SPEC)],
    ids=["masked", "pat"],
)
def test_two_ddp_workers(section, spec, data, ray_local, tmp_path):
    from raycadian.training import distributed

    loop.seed_everything(0)
    model = build(section, spec)
    model.fit_statistics(data[0])
    settings = SETTINGS.model_copy(update={"workers": 2, "epochs": 2, "precision": "fp32"})
    told = distributed.train(model, *data, settings, state=tmp_path / "state", on_epoch=lambda metrics: None)
    assert (told.how["engine"], told.how["workers"]) == ("DistributedDataParallel", 2)
    assert told.history[-1]["windows"] == len(data[0])
    assert told.history[-1]["val/loss"] < 0.9 * told.history[0]["val/loss"]  # 0.67 and 0.77 of it in one process
    assert all(weight.isfinite().all() for weight in model.parameters())
