"""What is trained: table `[network]`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from loratory.config.schema.base import Conflict, FilePath, Listed, SettingsTable, ZeroIsOff, changed

NetworkType = Literal["lora", "locon", "dora", "loha", "lokr", "dylora", "glora", "ia3", "diag-oft", "boft", "full"]
BlockWeights = Annotated[str | tuple[float, ...], Listed]

LycorisPreset = Literal["full", "attn-mlp", "attn-only", "unet-only", "transformer-only"]

_ALL: frozenset[str] = frozenset(get_args(NetworkType))
_PEFT: frozenset[str] = frozenset({"lora", "locon", "dora"})
_LOW_RANK = _PEFT | {"loha", "lokr", "dylora", "glora"}
_OFT: frozenset[str] = frozenset({"diag-oft", "boft"})
_DROPOUTS = ("network_dropout", "rank_dropout", "module_dropout")
_OF_CONVOLUTIONS = ("conv_dim", "conv_alpha", "use_tucker")

OF_BLOCKS = (
    "block_dims",
    "block_alphas",
    "conv_block_dims",
    "conv_block_alphas",
    "down_lr_weight",
    "mid_lr_weight",
    "up_lr_weight",
    "block_lr_zero_threshold",
)
"""The settings of single blocks of the UNet; of sd-scripts and LyCORIS, networks.lora alone has them."""

WITHOUT_CONVOLUTIONS: frozenset[str] = frozenset({"attn-mlp", "attn-only", "transformer-only"})
"""The selections of layers (`lycoris_preset`) that hold no 3x3 convolution."""

WITHOUT_TEXT_ENCODERS: frozenset[str] = frozenset({"unet-only", "transformer-only"})
"""The selections of layers that hold none of the text encoders."""

WITH_UPPER_HALVES: frozenset[str] = _PEFT | {"dylora"}
"""The types that have a lora_up, which LoRA+ trains at a rate of its own."""

USED_BY: dict[str, frozenset[str]] = {
    "network_dim": _LOW_RANK | _OFT,
    "network_alpha": _LOW_RANK,
    "conv_dim": (_LOW_RANK | _OFT) - {"lora"},
    "conv_alpha": _LOW_RANK - {"lora"},
    "network_dropout": frozenset({"lora", "locon", "dylora", "glora"}),
    "rank_dropout": (_LOW_RANK | _OFT) - {"dora"},
    "module_dropout": _ALL - {"dora"},
    "dim_from_weights": _PEFT,
    "rs_lora": _LOW_RANK,
    "dora_wd": frozenset({"lora", "locon", "loha", "lokr"}),
    "wd_on_output": frozenset({"dora", "lora", "locon", "loha", "lokr"}),
    "factor": frozenset({"lokr"}),
    "decompose_both": frozenset({"lokr"}),
    "full_matrix": frozenset({"lokr"}),
    "block_size": frozenset({"dylora"}),
    "constraint": _OFT,
    "rescaled": _OFT,
    "use_tucker": frozenset({"locon", "loha", "lokr"}),
    "use_scalar": frozenset({"locon", "loha", "lokr"}),
    # lora and dora train what networks.lora of sd-scripts does, iA3 a list of its own: neither holds norms.
    "train_norm": _ALL - {"lora", "dora", "ia3"},
    # The ranks that are left of lora and locon are always scaled, as in sd-scripts' networks.lora.
    "rank_dropout_scale": _LOW_RANK - _PEFT,
    "block_dims": _LOW_RANK,
    "block_alphas": _LOW_RANK,
    "conv_block_dims": _LOW_RANK - {"lora"},
    "conv_block_alphas": _LOW_RANK - {"lora"},
}
"""Which network types read a setting; a setting that is not named here is read by all of them."""


def unread(key: str, network_type: str) -> str:
    """Why a setting of `[network]` does nothing with this network type; "" where it is read."""
    return "" if network_type in USED_BY.get(key, _ALL) else _unread(key, network_type)


def _rank_of(validated: dict[str, Any]) -> float:
    # A rank that was refused is missing here; it has an error of its own.
    return float(validated.get("network_dim", 1))


class NetworkSettings(SettingsTable):
    """`[network]`: the adapter's type, size and regularization."""

    network_type: NetworkType = "lora"
    """The kind of adapter. General use: lora, locon, dylora, ia3, diag-oft; several concepts: locon, loha, lokr; one
    concept: locon, loha, lokr, glora; styles: locon, glora, ia3. sd-scripts: `network_module` and `algo`; the kohya
    GUI: LoRA type."""

    network_dim: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rank of the adapter: its size and capacity. sd-scripts' default is 4. 8 for what the model half knows, 32 for
    most, rarely above 64; LoHa at most 32, DyLoRA about 128. Diag-OFT and BOFT: the size of the blocks that are
    rotated; BOFT needs 10."""

    network_alpha: float = Field(default_factory=_rank_of, gt=0)
    """The adapter's output is scaled by alpha/rank, much like a learning rate; left out, it equals `network_dim`.
    sd-scripts' default is 1. Equal to the rank, but 1 under Prodigy and DAdaptation."""

    conv_dim: Annotated[Annotated[int, Field(ge=1, le=4096)] | None, ZeroIsOff] = None
    """Rank for the 3x3 convolutions; left out or 0, they get `network_dim` and `network_alpha`, and dora leaves them
    alone. LyCORIS: the same. 16 at most; `lycoris_preset` = "attn-mlp" trains none."""

    conv_alpha: Annotated[float, Field(gt=0)] = 1.0
    """Alpha for the 3x3 convolutions. 1 goes with rank 16."""

    network_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance to zero a value between the adapter's two halves, 0 to 1, in types that have two. 0, or 0.1 to try."""

    rank_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance to leave out a whole rank, 0 to 1; LoHa and LoKr leave out outputs of the layer, Diag-OFT and BOFT
    rotations. 0."""

    module_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance to skip the adapter of a whole layer, 0 to 1. 0."""

    rank_dropout_scale: bool = False
    """Scales what rank_dropout leaves, so that its mean stays; lora and locon do so anyway."""

    scale_weight_norms: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm that the change of a layer's weight may reach, 0 is off; of Diag-OFT and BOFT that of their blocks,
    of DoRA that before the magnitudes. 1 makes an adapter mix well with others and may cost detail; higher values do
    less of both."""

    network_train_unet_only: bool = False
    """Trains the UNet and leaves the text encoder alone."""

    network_train_text_encoder_only: bool = False
    """Trains the text encoder and leaves the UNet alone."""

    network_weights: FilePath | None = None
    """An adapter file that a new run begins with: of the same network type and sizes, and for the same base model
    family."""

    dim_from_weights: bool = False
    """Takes ranks and alphas from `network_weights`, each module its own, and trains what is in that file alone. For
    lora, locon and dora."""

    rs_lora: bool = False
    """Scales by alpha/sqrt(rank) instead of alpha/rank, so a larger rank does not learn more slowly. The guide's alphas
    such as 64/512 do the same by hand."""

    dora_wd: bool = False
    """DoRA: learns the size of each weight apart from its direction, which follows full fine-tuning more closely and
    takes longer. For lora, locon, loha and lokr; network_type = "dora" has it anyway."""

    wd_on_output: bool = True
    """DoRA: magnitudes per output rather than per input."""

    lycoris_preset: LycorisPreset = "full"
    """Which of the network type's layers are trained: "attn-mlp" leaves out convolutions, "attn-only" the feed-forward
    layers too, "unet-only" the text encoder, "transformer-only" it and the convolutions. LyCORIS: `preset`. "full" is
    the usual choice."""

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

    train_norm: bool = False
    """Trains the normalisation layers too."""

    block_dims: Annotated[tuple[int, ...], Listed] = ()
    """A rank for each UNet block (25 for SD 1/2, 23 for SDXL); 0 leaves its linear layers alone."""

    block_alphas: Annotated[tuple[float, ...], Listed] = ()
    """An alpha for each UNet block; left out, `network_alpha` for all."""

    conv_block_dims: Annotated[tuple[int, ...], Listed] = ()
    """A convolution rank for each UNet block; 0 leaves its 3x3 convolutions alone. Left out, `conv_dim` for all, or
    without that the ranks of `block_dims`."""

    conv_block_alphas: Annotated[tuple[float, ...], Listed] = ()
    """A convolution alpha for each UNet block; left out, `conv_alpha` for all."""

    down_lr_weight: BlockWeights = ()
    """Learning-rate factor of each down block, a list (12 for SD 1/2, 9 for SDXL) or a shape: cosine, sine, linear,
    reverse_linear, zeros, and what to add ("cosine+0.25")."""

    mid_lr_weight: Annotated[float, Field(ge=0)] = 1.0
    """Learning-rate factor of the middle block, of all three in SDXL."""

    up_lr_weight: BlockWeights = ()
    """Learning-rate factor of each up block, as for the down blocks."""

    block_lr_zero_threshold: Annotated[float, Field(ge=0)] = 0.0
    """Blocks whose factor is set and not above this get no network."""

    @property
    def decomposes(self) -> bool:
        """Whether magnitude and direction of the weights are learnt apart (DoRA), by type or by `dora_wd`."""
        return self.network_type == "dora" or self.dora_wd

    @property
    def reads_base(self) -> str | None:
        """What the network does with the weights of the base model, which must then be whole and on the device.

        None: it adds to a layer's output, or turns it (diag-oft), and never looks at the weights.
        """
        if self.decomposes:
            return "divides by the norm of the changed weights"
        return _READ_THE_BASE.get(self.network_type)

    @property
    def has_convolutions(self) -> bool:
        """Whether 3x3 convolutions of the UNet are among the layers that get a network."""
        if self.network_type in ("lora", "ia3") or self.network_train_text_encoder_only:
            return False
        if self.lycoris_preset in WITHOUT_CONVOLUTIONS:
            return False
        return self.network_type != "dora" or self.conv_dim is not None or bool(self.conv_block_dims)

    def conflicts(self) -> Iterator[Conflict]:
        for key in USED_BY:
            reason = unread(key, self.network_type)
            if reason and changed(self, key):
                yield Conflict(key, reason)
        yield from self._parts_left_out()
        yield from self._idle_of_lycoris()
        if self.decomposes:
            for key in _DROPOUTS:
                if self.network_type in USED_BY[key] and changed(self, key):
                    yield Conflict(key, _DROPOUT_OF_DORA)
        if self.dim_from_weights and self.network_weights is None:
            yield Conflict("dim_from_weights", "needs network_weights, the file to take the ranks from")
        if self.dim_from_weights and self.rs_lora:
            yield Conflict("rs_lora", "does nothing with dim_from_weights: the alphas of the file say the scale")
        if self.network_type == "dylora":
            named = [("network_dim", self.network_dim), ("conv_dim", self.conv_dim or 0)]
            named += [(key, rank) for key in ("block_dims", "conv_block_dims") for rank in getattr(self, key)]
            uneven = next(((key, rank) for key, rank in named if rank % self.block_size), None)
            if uneven is not None:
                yield Conflict("block_size", f"must divide {uneven[0]} = {uneven[1]}")
        if self.factor == 0:
            yield Conflict("factor", "is -1 for the smallest file, or 1 and more")

    def _parts_left_out(self) -> Iterator[Conflict]:
        """Settings of layers that are not trained."""
        if self.network_train_unet_only and self.network_train_text_encoder_only:
            yield Conflict(
                "network_train_text_encoder_only",
                "excludes network_train_unet_only: nothing would be trained",
            )
        if self.lycoris_preset in WITHOUT_TEXT_ENCODERS and self.network_train_text_encoder_only:
            yield Conflict("lycoris_preset", "excludes network_train_text_encoder_only: nothing would be trained")
        if self.network_train_text_encoder_only:
            yield from self._idle(
                (*OF_BLOCKS, *_OF_CONVOLUTIONS), "network_train_text_encoder_only leaves the UNet out"
            )
        elif self.lycoris_preset in WITHOUT_CONVOLUTIONS:
            reason = f'lycoris_preset = "{self.lycoris_preset}" has no 3x3 convolutions; use "full" or "unet-only"'
            yield from self._idle((*_OF_CONVOLUTIONS, "conv_block_dims", "conv_block_alphas"), reason)
        elif self.conv_dim is None and not self.conv_block_dims:
            yield from self._idle(("conv_alpha",), "there is no conv_dim")

    def _idle(self, keys: tuple[str, ...], reason: str) -> Iterator[Conflict]:
        """Those of `keys` that the network type reads and that are set to no effect."""
        for key in keys:
            if self.network_type in USED_BY.get(key, _ALL) and changed(self, key):
                yield Conflict(key, f"does nothing: {reason}")

    def _idle_of_lycoris(self) -> Iterator[Conflict]:
        """Switches that another one makes idle."""
        if not self.decomposes:
            yield from self._idle(("wd_on_output",), "dora_wd is off")
        if not self.rank_dropout:
            yield from self._idle(("rank_dropout_scale",), "rank_dropout is 0")
        if not (self.down_lr_weight or self.up_lr_weight or changed(self, "mid_lr_weight")):
            yield from self._idle(("block_lr_zero_threshold",), "no block has a factor of its own")
        if self.network_type == "lokr" and self.full_matrix:
            yield from self._idle(("decompose_both", "use_tucker"), "full_matrix keeps both factors whole")


_READ_THE_BASE = {
    "glora": "multiplies the weights",
    "ia3": "multiplies the weights",
    "boft": "rotates the weights",
    "full": "trains the weights",
}

_DROPOUT_OF_DORA = (
    "does not go with DoRA, which divides by the norm of the whole changed weight: use scale_weight_norms, or switch "
    "DoRA off"
)


def _unread(key: str, network_type: str) -> str:
    if network_type == "lora" and key.startswith("conv"):
        return 'does nothing with network_type = "lora", which has no convolutions: "locon" is meant'
    if network_type == "dora" and key == "dora_wd":
        return 'is what network_type = "dora" does anyway: leave one of the two out'
    if network_type == "dora" and key in _DROPOUTS:
        return _DROPOUT_OF_DORA
    readers = ", ".join(sorted(USED_BY[key]))
    return f'does nothing with network_type = "{network_type}"; it belongs to {readers}'
