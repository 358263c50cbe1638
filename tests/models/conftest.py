import pytest
import torch
from model_cases import windows


@pytest.fixture(scope="session")
def training():
    return windows()


@pytest.fixture(scope="session")
def batch(training):
    return training.batch(torch.arange(32))
