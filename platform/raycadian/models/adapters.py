"""What of a pretrained network trains: all of it, its head, its last layers, or low-rank additions (LoRA)."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from raycadian import config

# peft is imported where an adapter is made: it takes seconds, and most checkpoints have none


def apply(
    adapter: config.Adapter | config.PATAdapter, network: nn.Module, backbone: nn.Module, layers: Sequence[nn.Module],
    head: nn.Module,
) -> None:  # fmt: skip
    """Freeze `network` in place but for what `adapter` says. Raises ValueError.

    full: nothing is frozen · head: the backbone is frozen · last_n: so it is, but for the last n of its `layers` ·
    lora: everything is frozen but low-rank additions to linear layers (Hu et al. 2021) and the `head`.
    """
    match adapter:
        case config.HeadOnly():
            backbone.requires_grad_(False)
        case config.LastN(n=n):
            if n > len(layers):
                raise ValueError(f"adapter.n {n} exceeds the {len(layers)} layers of the backbone; lower it")
            backbone.requires_grad_(False)
            nn.ModuleList(layers[-n:]).requires_grad_(True)
        case config.Lora():
            _inject(adapter, network)
            head.requires_grad_(True)


def _inject(adapter: config.Lora, network: nn.Module) -> None:
    names = {name.rpartition(".")[2] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    if unknown := set(adapter.target_modules) - names:
        raise ValueError(
            f"adapter.target_modules: no linear layer is called {sorted(unknown)}; there are {sorted(names)}"
        )
    inject(network, adapter.target_modules, adapter.rank, adapter.alpha, adapter.dropout)


def inject(network: nn.Module, names: Iterable[str], rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Freeze `network` in place, and add low-rank weights to its linear layers of these names."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(names))
    inject_adapter_in_model(settings, network)


def merged(network: nn.Module) -> nn.Module:
    """A copy with every low-rank addition added into the weight it adapts: a plain network with the same outputs."""
    network = copy.deepcopy(network)
    for name, layer in _lora_layers(network.named_modules()):
        layer.merge()
        network.set_submodule(name, layer.get_base_layer())
    return network


def _lora_layers(modules: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in modules if isinstance(module, LoraLayer)]
