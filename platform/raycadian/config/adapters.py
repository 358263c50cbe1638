"""What of a pretrained network trains."""

from typing import Annotated, Literal, Union

from pydantic import Field

from raycadian.config.schema import Count, Fraction, Positive, Schema


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
