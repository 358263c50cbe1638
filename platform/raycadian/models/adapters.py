"""What of a pretrained network trains: all of it, its head, its last layers, or low-rank additions (LoRA)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from raycadian import config


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
    from peft import LoraConfig, inject_adapter_in_model  # 3 s that models without a network don't pay

    names = {name.rpartition(".")[2] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    if unknown := set(adapter.target_modules) - names:
        raise ValueError(
            f"adapter.target_modules: no linear layer is called {sorted(unknown)}; there are {sorted(names)}"
        )
    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.target_modules),
    )
    inject_adapter_in_model(settings, network)


def merged(network: nn.Module) -> nn.Module:
    """A copy with every low-rank addition added into the weight it adapts: a plain network with the same outputs."""
    from peft.tuners.lora import LoraLayer

    network = copy.deepcopy(network)
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        layer.merge()
        network.set_submodule(name, layer.get_base_layer())
    return network
