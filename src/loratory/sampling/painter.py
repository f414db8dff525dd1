"""Draws with the adapter files of a run: one base model in memory, and one file after the other put into it."""

from pathlib import Path

import torch
from PIL import Image

from loratory.adapters.base_weights import merge_base_weights
from loratory.adapters.files import read_adapter
from loratory.adapters.lora import Adapter, inject
from loratory.adapters.network_weights import sizes_from_weights
from loratory.config.schema import Config
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
        self._adapter: Adapter | None = None
        self._file: Path | None = None

    def draw(self, file: Path | None, strength: float, prompt: Prompt) -> Image.Image:
        """A picture with the adapter of `file`, its effect scaled by `strength`; without any where `file` is None.

        Raises LoratoryError for a file that holds another network than the config's, and where memory runs out.
        """
        if file is not None:
            self._adapter = self._with(file)
            self._adapter.multiplier = strength
        if self._adapter is None or file is not None:
            return self._draw(prompt)
        with self._adapter.disabled():
            return self._draw(prompt)

    def _with(self, file: Path) -> Adapter:
        config, base = self._config, self._base
        adapter = self._adapter
        if adapter is None:
            # All files of a run hold the same network. Where its ranks came from a file that may be gone by now, they
            # are read from this one.
            network = config.network
            if network.dim_from_weights:
                network = network.model_copy(update={"network_weights": file})
            rates = config.text_encoder_rates(len(base.text_encoders))
            adapter = inject(
                base.unet,
                base.text_encoders,
                base.info.family,
                config.network,
                seed=0,
                train_unet=config.trains_unet,
                train_text_encoder=[rate > 0 for rate in rates],
                sizes=sizes_from_weights(network, base.info.family),
            )
        if file != self._file:
            adapter.load_kohya_state_dict(read_adapter(file).state_dict)
            self._file = file
        return adapter

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
