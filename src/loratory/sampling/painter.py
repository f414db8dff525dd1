"""Draws with the adapter files of a run: one base model in memory, and one file after the other put into it."""

from pathlib import Path

import torch
from PIL import Image

from loratory.adapters.adapter import Adapter
from loratory.adapters.base_weights import merge_base_weights
from loratory.adapters.files import read_adapter
from loratory.adapters.inject import inject
from loratory.adapters.network_weights import sizes_from_weights
from loratory.config.schema import Config, NetworkSettings
from loratory.errors import FAILED, LoratoryError
from loratory.models.detect import ModelInfo
from loratory.models.load import load_base_model
from loratory.sampling.preview import draw
from loratory.sampling.prompts import Prompt


class Painter:
    """The base model of a config, ready to draw with or without an adapter of its network at any strength."""

    def __init__(self, config: Config, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> None:
        self._config = config
        self._device = device
        self._dtype = dtype
        self._base = load_base_model(info, config.model, dtype=None if dtype == torch.float32 else dtype)
        if config.model.base_weights:
            merge_base_weights(
                config.model.base_weights,
                config.model.base_weights_multiplier,
                self._base.unet,
                self._base.text_encoders,
                info.family,
            )
        self._injected: Adapter | None = None
        self._file: Path | None = None

    @property
    def adapter(self) -> Adapter:
        """The network of the config in the base model: put in when it is first wanted, without effect as yet."""
        if self._injected is None:
            self._injected = self._inject(self._config.network)
        return self._injected

    def draw(self, file: Path | None, strength: float, prompt: Prompt) -> Image.Image:
        """A picture with the adapter of `file`, its effect scaled by `strength`; without any where `file` is None.

        Raises LoratoryError for a file that holds another network than the config's, and where memory runs out.
        """
        if file is not None:
            self._load(file)
            self.adapter.multiplier = strength
            return self._draw(prompt)
        if self._injected is None:
            return self._draw(prompt)
        with self._injected.disabled():
            return self._draw(prompt)

    def _load(self, file: Path) -> None:
        if file == self._file:
            return
        network = self._config.network
        if self._injected is None and network.dim_from_weights:
            # All files of a run hold the same network. The one its ranks came from may be gone by now.
            self._injected = self._inject(network.model_copy(update={"network_weights": file}))
        self.adapter.load_kohya_state_dict(read_adapter(file).state_dict)
        self._file = file

    def _inject(self, network: NetworkSettings) -> Adapter:
        config, base = self._config, self._base
        rates = config.text_encoder_rates(len(base.text_encoders))
        return inject(
            base.unet,
            base.text_encoders,
            base.info.family,
            network,
            seed=0,
            train_unet=config.trains_unet,
            train_text_encoder=[rate > 0 for rate in rates],
            sizes=sizes_from_weights(network, base.info.family),
        )

    def _draw(self, prompt: Prompt) -> Image.Image:
        config = self._config
        try:
            (picture,) = draw(
                self._base,
                [prompt],
                clip_skip=config.model.clip_skip,
                max_token_length=config.caption.max_token_length,
                weighted_captions=config.caption.weighted_captions,
                device=self._device,
                dtype=self._dtype,
            )
        except torch.OutOfMemoryError as error:
            raise LoratoryError(
                f"Not enough graphics memory to draw {prompt.width}x{prompt.height} pixels.",
                hint="End what else uses the card, a training included, or give --w and --h of the prompts less.",
                exit_code=FAILED,
            ) from error
        return picture
