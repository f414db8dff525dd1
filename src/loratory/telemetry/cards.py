"""The graphics cards a process uses, as NVIDIA's driver tells of them (NVML, by the optional package nvidia-ml-py).

Nothing here is worth a failure: without the package, a driver or a card, there are no cards.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from loratory.runs.events import Card

_T = TypeVar("_T")


def read_cards() -> list[Card]:
    """The cards of this process at this moment, in its order; [] where the driver cannot be asked.

    Once torch is loaded they are those that it computes on, none before it has touched one. Without torch: those that
    CUDA_VISIBLE_DEVICES leaves, in the order of CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    nvml = _nvml()
    if nvml is None:
        return []
    torch: Any = sys.modules.get("torch")
    try:
        handles = visible_handles(nvml, os.environ) if torch is None else _handles_of(nvml, torch)
        return [_read(nvml, handle) for handle in handles]
    except nvml.NVMLError:
        return []


@cache
def _nvml() -> Any:
    """The module, ready to be asked; None where that cannot be. It stays ready until the process ends."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def visible_handles(nvml: Any, environment: Mapping[str, str]) -> list[Any]:
    """The handles of the cards that CUDA_VISIBLE_DEVICES names, by number, UUID or the beginning of one; all of them
    where it is not set. As in CUDA, what follows a name that is none does not count."""
    cards = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return cards
    handles: list[Any] = []
    for name in (part.strip() for part in named.split(",")):
        handle = cards[int(name)] if name.isdecimal() and int(name) < len(cards) else _by_uuid(nvml, cards, name)
        if handle is None:
            break
        handles.append(handle)
    return handles


def _handles_of(nvml: Any, torch: Any) -> list[Any]:
    """The handles of the cards that torch has in use: as many as this machine has processes of the run."""
    cuda: Any = getattr(torch, "cuda", None)  # not there while another thread is about to import torch
    if not getattr(cuda, "is_initialized", lambda: False)():
        return []
    cards = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    used = min(cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    # By UUID, since CUDA puts the fastest card first and NVML goes by the slot.
    uuids = [str(cuda.get_device_properties(index).uuid) for index in range(used)]
    found = [_by_uuid(nvml, cards, f"GPU-{uuid}") or _by_uuid(nvml, cards, f"MIG-{uuid}") for uuid in uuids]
    return [handle for handle in found if handle is not None]


def _by_uuid(nvml: Any, cards: list[Any], name: str) -> Any:
    if name.startswith("MIG-"):
        return _told(nvml, lambda: nvml.nvmlDeviceGetHandleByUUID(name))
    if not name.startswith("GPU-"):
        return None
    matches = [card for card in cards if _text(nvml.nvmlDeviceGetUUID(card)).startswith(name)]
    return matches[0] if len(matches) == 1 else None


def _read(nvml: Any, handle: Any) -> Card:
    load = _told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    memory = _told(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    temperature = _told(nvml, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    power_mw = _told(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    limit_mw = _told(nvml, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    return Card(
        name=_told(nvml, lambda: _text(nvml.nvmlDeviceGetName(handle))) or "GPU",
        load=None if load is None else float(load),
        memory_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        temperature_c=None if temperature is None else float(temperature),
        power_w=None if power_mw is None else power_mw / 1000,
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
    )


def _told(nvml: Any, ask: Callable[[], _T]) -> _T | None:
    """What the driver answers; None where it does not tell, as laptops and parts of a card do not tell everything."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
