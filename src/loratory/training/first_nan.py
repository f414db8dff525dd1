"""Where the numbers ended: the first layer that gave a NaN or an infinity, found by taking the broken step again.

By the time a loss is read the step has changed the weights, and they are no numbers any more. So the search goes back
to the newest state, takes the steps since then again, as a resumed run would, and looks at every layer's output in the
forward pass of the broken one. All of this comes after the run's last step, and costs at most as many of them as lie
between two states.
"""

import logging
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loratory.training.engine import Engine
from loratory.training.keeper import StateKeeper, restore
from loratory.training.update import seed_dropouts, take_step
from loratory.training.windows import Window, Windows

_LOG = logging.getLogger(__name__)
# Going back further would take longer than a person waits for a failed run's last word.
_STEPS_TAKEN_AGAIN = 200


def first_layer(keeper: StateKeeper, windows: Windows, step: int, given_up: Callable[[], bool]) -> str:
    """The first layer that gave no number in `step`, "" if none was found; leaves the engine unfit to go on.

    A dotted path that begins with `unet`, `text_encoder` or `text_encoder_2`; ` lora_down`, ` lora_up` and the like
    behind it name the adapter's part of the layer, ` (gradient)` one whose output was a number, but not what came back
    to it. A parameter of the base model that is no number is named instead: the layers behind it are not at fault.
    given_up: whether a person has asked for the end; then no more steps are taken again. Raises nothing: what it might
    stumble over is news of lesser worth than the one it is called for.
    """
    try:
        return _search(keeper, windows, step, given_up)
    except Exception:  # noqa: BLE001 - a search for an explanation must not hide what it explains
        _LOG.exception("The layer that gave no number could not be found.")
        return ""


def _search(keeper: StateKeeper, windows: Windows, step: int, given_up: Callable[[], bool]) -> str:
    engine = keeper.engine
    windows.close()
    engine.optimizers.zero_grad()
    if broken := _broken_parameter(engine, adapter=False):
        return broken
    window = windows.make(step - 1)
    with torch.compiler.set_stance("force_eager"):  # hooks do not see into compiled layers
        # A step that a gradient scaler has left out has changed nothing.
        if _broken_parameter(engine, adapter=True) and not _go_back(keeper, windows, step - 1, given_up):
            return ""
        return _broken_parameter(engine, adapter=True) or _broken_output(engine, windows, window, step - 1)


def _go_back(keeper: StateKeeper, windows: Windows, done: int, given_up: Callable[[], bool]) -> bool:
    """Puts the engine where it was after `done` steps, or, with several processes, at the newest state before."""
    state = keeper.last()
    if state is None or not 0 <= done - state.step <= _STEPS_TAKEN_AGAIN:
        return False
    restore(keeper.engine, state)
    if windows.ranks.size > 1:  # the others have gone
        return True
    for again in range(state.step, done):
        if given_up():
            return False
        take_step(keeper.engine, windows.ranks, windows.make(again), again, windows.adjustments(again).rate)
    return True


def _models(engine: Engine) -> Iterator[tuple[str, nn.Module]]:
    yield from zip(("text_encoder", "text_encoder_2"), engine.base.text_encoders, strict=False)
    yield "unet", engine.base.unet


def _broken_parameter(engine: Engine, *, adapter: bool) -> str:
    """The name of a parameter that is no number, of the base model or of the adapter; "" if all are numbers."""
    trained = {
        id(tensor): f"{layer.target.path} {name}"
        for layer in engine.adapter.layers
        for name, tensor in layer.tensors().items()
    }
    for model_name, model in _models(engine):
        for path, tensor in model.named_parameters():
            if (id(tensor) in trained) == adapter and _is_broken(tensor):
                return _spoken(f"{model_name}.{trained.get(id(tensor), path)}")
    return ""


def _broken_output(engine: Engine, windows: Windows, window: Window, done: int) -> str:
    for micro, share in enumerate(window):
        if share.batch is None:
            continue
        batch = share.batch.to(engine.device)
        if batch.text is not None and _is_broken(batch.text.hidden):
            return "text_encoder"  # encoded before the training, and kept
        seed_dropouts(engine, windows.ranks, done, micro)
        with _watched(engine) as found:
            losses = engine.losses(batch)
            if not found:
                engine.scaler.scale(losses.total).backward()
        if found:
            return found[0]
    return ""


@contextmanager
def _watched(engine: Engine) -> Generator[list[str]]:
    """Inside, the layers that give no numbers are listed in the order they do, then those that get none back."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if _is_broken(tensor):
                    found.append(name)
                elif tensor.requires_grad:
                    tensor.register_hook(coming_back)

        def coming_back(gradient: Tensor) -> None:
            if _is_broken(gradient):
                found.append(f"{name} (gradient)")

        return after

    with ExitStack() as hooks:
        for model_name, model in _models(engine):
            for path, module in model.named_modules():
                handle = module.register_forward_hook(watch(_spoken(f"{model_name}.{path}".rstrip("."))))
                hooks.callback(handle.remove)
        yield found


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)


def _is_broken(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(tensor.isfinite().all())


# What peft inserts into the paths of adapted layers, and what files call it.
_ADAPTER_NAMES = {"lora_A": "lora_down", "lora_B": "lora_up", "lora_magnitude_vector": "dora_scale"}


def _spoken(path: str) -> str:
    """`unet.x.to_q.lora_A.default.weight` as `unet.x.to_q lora_down.weight`."""
    path = path.replace(".base_layer", "")
    return re.sub(
        r"\.(lora_A|lora_B|lora_magnitude_vector)\.default", lambda found: f" {_ADAPTER_NAMES[found[1]]}", path
    )
