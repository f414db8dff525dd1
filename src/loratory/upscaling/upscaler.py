"""Enlarging pictures with a network: in pieces, on the device there is, to an exact size."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from loratory.errors import FAILED, LoratoryError
from loratory.upscaling import Stopped
from loratory.upscaling.tiles import Tile, mirrored, tiles

# Below this the margins are nearly all that is computed, and a card that has no room for it has none for anything.
_SMALLEST_SIDE_PX = 128

# Networks shift plain colours, the embedded ones by up to 4 levels. What they make has the colours of the picture in
# the mean over so many px to each side; finer differences, such as the damage of a JPEG, stay repaired.
_COLOUR_PX = 2

_LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Network:
    """A network that enlarges pictures, with what has to be known to run it.

    module: holds the weights, fp32. call: what is called instead of it, None for itself: float (1, 3, height, width),
    0 to 1, to `scale` times that size. margin_px: what it has to see around a piece. side_px: of the pieces, so that
    they take about a gigabyte. half: whether it can compute in half precision on a GPU; fast_on_cpu: in bfloat16.
    """

    module: nn.Module
    scale: int
    margin_px: int
    side_px: int
    call: Callable[[torch.Tensor], torch.Tensor] | None = None
    half: bool = True
    fast_on_cpu: bool = True


class Upscaler:
    """Enlarges pictures; `open_upscaler` makes one. Not for several threads at once.

    name: embedded name or path. scale: how many times the network enlarges. device: where it runs. notes: sentences
    for the user about what could not be done as asked, in the order they came up.
    """

    def __init__(self, name: str, network: Network, device: torch.device) -> None:
        self.name = name
        self.scale = network.scale
        self.device = device
        self.notes: list[str] = []
        self._network = network
        self._side_px = network.side_px
        try:
            self._place(device)
        except torch.OutOfMemoryError:
            self._take_cpu()

    def enlarge(
        self,
        picture: Image.Image,
        size: tuple[int, int],
        *,
        progress: Callable[[int, int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Image.Image:
        """The picture at exactly `size`, (width, height) in px, mode "RGB"; proportions are the caller's matter.

        The network enlarges it by its scale, twice where once is not enough, and Lanczos brings it to the size; it is
        not asked where nothing has to grow, unless its scale is 1. Colours stay as they were in the mean over a few px.
        Memory: the two pictures, about a gigabyte besides, whatever their size. The same picture on the same
        machine gives the same px.

        progress: called with the number of pieces done and of all, which may begin anew when the device has too little
        memory. stop: looked at before each layer. Raises Stopped; LoratoryError where the network computes no numbers.
        """
        if picture.mode != "RGB" or min(size) < 1:
            raise ValueError(f'a picture of mode "{picture.mode}" to {size[0]}x{size[1]} px')
        while True:
            try:
                with torch.inference_mode(), _stoppable(self._network.module, stop):
                    return self._enlarged(picture, size, progress or (lambda done, total: None))
            except torch.OutOfMemoryError:
                if self.device.type == "cpu":
                    raise
            # Outside the handler, which keeps the tensors of the failed attempt alive.
            self._make_room()

    def _enlarged(
        self, picture: Image.Image, size: tuple[int, int], progress: Callable[[int, int], None]
    ) -> Image.Image:
        sizes = _passes(picture.size, size, self.scale)
        if not sizes:
            return picture.resize(size, _LANCZOS)
        starts = [picture.size, *sizes[:-1]]
        cut = [
            tiles(before, after, self._side_px, self._network.margin_px + 2 * _COLOUR_PX)
            for before, after in zip(starts, sizes, strict=True)
        ]
        done, total = 0, sum(map(len, cut))
        for after, pieces in zip(sizes, cut, strict=True):
            pixels = np.asarray(picture)
            picture = Image.new("RGB", after)
            for piece in pieces:
                picture.paste(self._made(pixels, piece), piece.made[:2])
                done += 1
                progress(done, total)
        return picture

    def _made(self, pixels: npt.NDArray[np.uint8], piece: Tile) -> Image.Image:
        enlarged = Image.fromarray(self._run(mirrored(pixels, piece.read)))
        left, top, right, bottom = piece.made
        x, y = piece.read[:2]
        edges = (piece.source[0] - x, piece.source[1] - y, piece.source[2] - x, piece.source[3] - y)
        box = tuple(edge * self.scale for edge in edges)
        return enlarged.resize((right - left, bottom - top), _LANCZOS, box=(box[0], box[1], box[2], box[3]))

    def _run(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 (height, width, 3) through the network: `scale` times the size."""
        picture = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None].float() / 255
        picture = picture.contiguous(memory_format=torch.channels_last)
        dtype = self._dtype()
        for attempt in (dtype, torch.float32):
            with torch.autocast(self.device.type, attempt, enabled=attempt != torch.float32):
                made = (self._network.call or self._network.module)(picture).float()
            if made.isfinite().all():
                levels = (_with_colours_of(picture, made, self.scale)[0] * 255).round_().clamp_(0, 255).to(torch.uint8)
                return levels.permute(1, 2, 0).contiguous().cpu().numpy()
        raise LoratoryError(
            f"The upscaler {self.name} computes values that are not numbers.",
            hint="Its file may be damaged; take another upscaler.",
            exit_code=FAILED,
        )

    def _dtype(self) -> torch.dtype:
        if self.device.type == "cuda":
            return torch.float16 if self._network.half else torch.float32
        return torch.bfloat16 if self._network.fast_on_cpu and cpu_has_bfloat16() else torch.float32

    def _place(self, device: torch.device) -> None:
        self.device = device
        module: Any = self._network.module
        module.to(device=device, memory_format=torch.channels_last)

    def _make_room(self) -> None:
        torch.cuda.empty_cache()
        if self._side_px >= 2 * _SMALLEST_SIDE_PX:
            self._side_px //= 2
        else:
            self._take_cpu()

    def _take_cpu(self) -> None:
        self.notes.append(
            f"{self.device} has too little free memory for the upscaler, which goes on on the CPU, many times slower."
        )
        self._side_px = self._network.side_px
        self._place(torch.device("cpu"))
        torch.cuda.empty_cache()


def _with_colours_of(picture: torch.Tensor, made: torch.Tensor, scale: int) -> torch.Tensor:
    """What the network made, with the colours of what it was made from, smoothed; both float (1, 3, height, width).

    Not where the scale is 1: changing colours may be what such a network is for.
    """
    if scale == 1:
        return made
    missing = picture - functional.avg_pool2d(made, scale)
    for _ in range(2):
        padded = functional.pad(missing, (_COLOUR_PX,) * 4, mode="replicate")
        missing = functional.avg_pool2d(padded, 2 * _COLOUR_PX + 1, stride=1)
    return made + functional.interpolate(missing, scale_factor=scale, mode="bilinear")


def _passes(size: tuple[int, int], wanted: tuple[int, int], scale: int) -> list[tuple[int, int]]:
    """The sizes that runs of the network lead to, the last of them `wanted`; none where nothing has to grow.

    Before a second run the picture is brought to the size that the run can enlarge to `wanted`: what it costs goes by
    the px it reads.
    """
    if scale == 1:
        return [wanted]
    growth = max(after / before for before, after in zip(size, wanted, strict=True))
    if growth <= 1:
        return []
    if growth <= scale:
        return [wanted]
    width, height = (
        min(scale * before, max(before, -(-after // scale))) for before, after in zip(size, wanted, strict=True)
    )
    return [(width, height), wanted]


@contextmanager
def _stoppable(module: nn.Module, stop: threading.Event | None) -> Generator[None]:
    """Looks at `stop` before each layer: a piece takes seconds on a CPU."""
    if stop is None:
        yield
        return

    def look(layer: nn.Module, inputs: Any) -> None:
        if stop.is_set():
            raise Stopped

    look(module, ())
    handles = [layer.register_forward_pre_hook(look) for layer in module.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@cache
def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 by itself; without, it is slower than fp32.

    Linux tells; elsewhere the answer is no.
    """
    try:
        words = Path("/proc/cpuinfo").read_text("utf-8", "replace").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(words)
