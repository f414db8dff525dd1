"""What is trained: table `[network]`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from loratory.config.schema.base import Conflict, FilePath, Listed, SettingsTable, ZeroIsOff, changed

NetworkType = Literal["lora", "locon", "dora", "loha", "lokr", "dylora", "glora", "ia3", "diag-oft", "boft", "full"]
BlockWeights = Annotated[str | tuple[float, ...], Listed]

_PEFT: frozenset[str] = frozenset({"lora", "locon", "dora"})
_LOW_RANK = _PEFT | {"loha", "lokr", "dylora", "glora"}
_OFT: frozenset[str] = frozenset({"diag-oft", "boft"})

USED_BY: dict[str, frozenset[str]] = {
    "network_dim": _LOW_RANK | _OFT,
    "network_alpha": _LOW_RANK,
    "conv_dim": (_LOW_RANK | _OFT) - {"lora"},
    "conv_alpha": _LOW_RANK - {"lora"},
    # DoRA's norm is that of the whole changed weight: dropping a part of it would change what it divides by.
    "network_dropout": _LOW_RANK - {"loha", "lokr", "dora"},
    "rank_dropout": (_LOW_RANK | _OFT) - {"dora"},
    "module_dropout": frozenset(get_args(NetworkType)) - {"dora"},
    "scale_weight_norms": _PEFT | _OFT | {"loha", "lokr"},
    "rs_lora": _PEFT | {"loha", "lokr"},
    "factor": frozenset({"lokr"}),
    "decompose_both": frozenset({"lokr"}),
    "full_matrix": frozenset({"lokr"}),
    "block_size": frozenset({"dylora"}),
    "constraint": _OFT,
    "rescaled": _OFT,
    "use_tucker": frozenset({"locon", "loha", "lokr", "glora"}),
    "use_scalar": frozenset({"locon", "loha", "lokr"}),
    "wd_on_output": frozenset({"dora"}),
    "bypass_mode": _LOW_RANK - {"lora", "dora"},
    # The ranks that are left of lora and locon are always scaled, as in sd-scripts' networks.lora.
    "rank_dropout_scale": _LOW_RANK - _PEFT,
    "block_dims": _PEFT,
    "block_alphas": _PEFT,
    "conv_block_dims": _PEFT - {"lora"},
    "conv_block_alphas": _PEFT - {"lora"},
}
"""Which network types read a setting; a setting that is not named here is read by all of them."""


def _rank_of(validated: dict[str, Any]) -> float:
    # A rank that was refused is missing here; it has an error of its own.
    return float(validated.get("network_dim", 1))


class NetworkSettings(SettingsTable):
    """`[network]`: the adapter's type, size and regularization."""

    network_type: NetworkType = "lora"
    """The kind of adapter. General use: lora, locon, dylora, ia3, diag-oft; several concepts: locon, loha, lokr;
    styles: locon, glora, ia3. sd-scripts: `network_module` and `algo`; the kohya GUI: LoRA type."""

    network_dim: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rank of the adapter: its size and capacity. sd-scripts' default is 4. 8 for what the model half knows, 32 for
    most, rarely above 64; LoHa at most 32."""

    network_alpha: float = Field(default_factory=_rank_of, gt=0)
    """The adapter's output is scaled by alpha/rank, much like a learning rate; left out, it equals `network_dim`.
    sd-scripts' default is 1. Equal to the rank, but 1 under Prodigy and DAdaptation."""

    conv_dim: Annotated[Annotated[int, Field(ge=1, le=4096)] | None, ZeroIsOff] = None
    """Rank for the 3x3 convolutions; left out or 0, locon takes `network_dim` and `network_alpha` for them, and the
    other types do not train them. sd-scripts: same for LyCORIS. 16 at most."""

    conv_alpha: Annotated[float, Field(gt=0)] = 1.0
    """Alpha for the 3x3 convolutions. 1 goes with rank 16."""

    network_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance to zero a value between the adapter's two halves, 0 to 1. 0, or 0.1 to try."""

    rank_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance to leave out a whole rank, 0 to 1. 0."""

    module_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance to skip the adapter of a whole layer, 0 to 1. 0."""

    scale_weight_norms: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm a layer's weights may reach, 0 is off. 1 makes an adapter mix well with others and may cost detail;
    higher values do less of both."""

    network_train_unet_only: bool = False
    """Trains the UNet and leaves the text encoder alone."""

    network_train_text_encoder_only: bool = False
    """Trains the text encoder and leaves the UNet alone."""

    network_weights: FilePath | None = None
    """An adapter file that a new run begins with: a LoRA, LoCon or DoRA of the same base model family."""

    dim_from_weights: bool = False
    """Takes ranks and alphas from `network_weights`, each module its own, and trains what is in that file alone."""

    rs_lora: bool = False
    """Scales by alpha/sqrt(rank) instead of alpha/rank, so a larger rank does not learn more slowly. The guide's alphas
    such as 64/512 do the same by hand."""

    lycoris_preset: Literal["full", "attn-mlp", "attn-only", "unet-only", "transformer-only"] = "full"
    """Which layers a LyCORIS type trains. LyCORIS: `preset`. "full" is the usual choice."""

    factor: Annotated[int, Field(ge=-1)] = -1
    """LoKr: how the weight is split; -1 gives the smallest file, about 8 a large one."""

    decompose_both: bool = False
    """LoKr: makes the small factor low-rank too."""

    full_matrix: bool = False
    """LoKr: keeps both factors at full rank."""

    block_size: Annotated[int, Field(ge=1)] = 4
    """DyLoRA: ranks trained together; must divide `network_dim`. sd-scripts: `unit`."""

    constraint: Annotated[float, Field(ge=0)] = 0.0
    """Diag-OFT and BOFT: how far a rotation may go, 0 is unlimited."""

    rescaled: bool = False
    """Diag-OFT and BOFT: learns a scale per output beside the rotation."""

    use_tucker: bool = False
    """Tucker decomposition of the convolutions, smaller than the plain one. Formerly `use_cp`."""

    use_scalar: bool = False
    """Starts from a learnt zero scale instead of zeroed weights."""

    wd_on_output: bool = True
    """DoRA: magnitudes per output rather than per input."""

    train_norm: bool = False
    """Trains the normalisation layers too."""

    bypass_mode: bool = False
    """Adds the adapter's output instead of building its weight."""

    rank_dropout_scale: bool = False
    """Scales what rank dropout leaves, so that its mean stays."""

    block_dims: Annotated[tuple[int, ...], Listed] = ()
    """A rank for each UNet block (25 for SD 1/2, 23 for SDXL)."""

    block_alphas: Annotated[tuple[float, ...], Listed] = ()
    """An alpha for each UNet block."""

    conv_block_dims: Annotated[tuple[int, ...], Listed] = ()
    """A convolution rank for each UNet block."""

    conv_block_alphas: Annotated[tuple[float, ...], Listed] = ()
    """A convolution alpha for each UNet block."""

    down_lr_weight: BlockWeights = ()
    """Learning-rate factor of each down block, a list or a shape such as "cosine"."""

    mid_lr_weight: Annotated[float, Field(ge=0)] = 1.0
    """Learning-rate factor of the middle block."""

    up_lr_weight: BlockWeights = ()
    """Learning-rate factor of each up block, a list or a shape such as "cosine"."""

    block_lr_zero_threshold: Annotated[float, Field(ge=0)] = 0.0
    """Blocks whose factor is not above this are left out."""

    def conflicts(self) -> Iterator[Conflict]:
        for key, types in USED_BY.items():
            if self.network_type not in types and changed(self, key):
                yield Conflict(key, _unread(key, self.network_type, types))
        if self.conv_dim is None and self.network_type in USED_BY["conv_alpha"] and changed(self, "conv_alpha"):
            yield Conflict("conv_alpha", "does nothing without conv_dim")
        if self.network_train_unet_only and self.network_train_text_encoder_only:
            yield Conflict(
                "network_train_text_encoder_only",
                "excludes network_train_unet_only: nothing would be trained",
            )
        if self.dim_from_weights and self.network_weights is None:
            yield Conflict("dim_from_weights", "needs network_weights, the file to take the ranks from")
        if self.dim_from_weights and self.rs_lora:
            yield Conflict("rs_lora", "does nothing with dim_from_weights: the alphas of the file say the scale")
        if self.network_type == "dylora" and self.network_dim % self.block_size:
            yield Conflict("block_size", f"must divide network_dim = {self.network_dim}")
        if self.factor == 0:
            yield Conflict("factor", "is -1 for the smallest file, or 1 and more")


def _unread(key: str, network_type: str, types: frozenset[str]) -> str:
    if network_type == "lora" and key.startswith("conv"):
        return 'does nothing with network_type = "lora", which has no convolutions: "locon" is meant'
    readers = ", ".join(sorted(types))
    return f'does nothing with network_type = "{network_type}"; it belongs to {readers}'
