"""What to draw: prompts with kohya's flags, their file format, and the text that a picture carries of them.

Nothing here imports torch, so that a screen can read and check what is typed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loratory.config.schema import Config
from loratory.errors import LoratoryError

# As the front ends that read the text of a picture call them.
SAMPLER_TITLES = {
    "ddim": "DDIM",
    "pndm": "PNDM",
    "lms": "LMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_a": "DPM2 a",
    "dpmsolver": "DPM-Solver 2M",
    "dpmsolver++": "DPM++ 2M",
    "dpmsingle": "DPM++ 2S",
}
"""The samplers there are; each of those of k-diffusion has a second name with k_ in front."""


def sampler_of(name: str) -> str | None:
    """The sampler of a name as kohya writes it, `k_euler` and `euler` being the same; None where there is none."""
    plain = name.strip().lower().removeprefix("k_")
    return plain if plain in SAMPLER_TITLES else None


@dataclass(frozen=True)
class Prompt:
    """One picture to draw. Sizes in pixels; sampler: a key of SAMPLER_TITLES."""

    text: str
    negative: str
    width: int
    height: int
    seed: int
    steps: int
    guidance_scale: float
    sampler: str = "ddim"


_FLAGS = {
    "n": "negative",
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "l": "guidance_scale",
    "ss": "sampler",
}


def parse_prompt(line: str, defaults: Prompt, where: str = "") -> Prompt:
    """A prompt with kohya's flags: `fox, snow --n blurry --w 512 --h 768 --d 7 --s 30 --l 7.5 --ss euler_a`.

    where: what an error calls the line, such as "prompts.txt, line 3". Raises LoratoryError for an unknown flag or
    sampler, and for a value that is not a number, or out of range, where one is needed.
    """
    called = f"{where} (“{line.strip()}”)" if where else f"sample prompt “{line}”"
    text, *flags = re.split(r"\s--(?=[A-Za-z])", " " + line)
    changes: dict[str, Any] = {"text": text.strip()}
    for flag in flags:
        name, _, value = flag.strip().partition(" ")
        if name.lower() not in _FLAGS:
            raise LoratoryError(f"{called}: the flag --{name} is not known.", hint=f"Known: {_known()}.")
        field = _FLAGS[name.lower()]
        changes[field] = _sampler(value, called) if field == "sampler" else _value(value, name, field, defaults, called)
    prompt = replace(defaults, **changes)
    sizes_fit = all(64 <= side <= 4096 and side % 8 == 0 for side in (prompt.width, prompt.height))
    rest_fits = 1 <= prompt.steps <= 1000 and 0 <= prompt.guidance_scale <= 100 and 0 <= prompt.seed < 2**63
    if not (sizes_fit and rest_fits):
        raise LoratoryError(
            f"{called}: --w and --h must be multiples of 8 from 64 to 4096, --s from 1 to 1000, --l from 0 to 100, "
            "--d from 0 up."
        )
    return prompt


def _value(value: str, name: str, field: str, defaults: Prompt, called: str) -> Any:
    kind = type(getattr(defaults, field))
    try:
        return kind(value.strip())
    except ValueError:
        raise LoratoryError(f"{called}: --{name} needs a number, got “{value}”.") from None


def _sampler(value: str, called: str) -> str:
    sampler = sampler_of(value)
    if sampler is None:
        raise LoratoryError(
            f"{called}: --ss names no sampler with “{value.strip()}”.", hint=f"One of {', '.join(SAMPLER_TITLES)}."
        )
    return sampler


def _known() -> str:
    return ", ".join(f"--{flag}" for flag in _FLAGS)


def prompt_line(prompt: Prompt) -> str:
    """The prompt as one line with all of its flags; `parse_prompt` gives it back."""
    flags = [f"--n {prompt.negative}"] if prompt.negative else []
    flags += [
        f"--w {prompt.width}",
        f"--h {prompt.height}",
        f"--d {prompt.seed}",
        f"--s {prompt.steps}",
        f"--l {prompt.guidance_scale:g}",
        f"--ss {prompt.sampler}",
    ]
    return " ".join([prompt.text, *flags]).strip()


def default_prompt(config: Config) -> Prompt:
    """What a line without flags is drawn with, by `[sample]`."""
    sample = config.sample
    width, height = config.dataset.resolution_wh
    return Prompt(
        text="",
        negative=sample.negative_prompt,
        width=sample.width or width,
        height=sample.height or height,
        seed=sample.seed,
        steps=sample.steps,
        guidance_scale=sample.guidance_scale,
        sampler=sampler_of(sample.sample_sampler) or "ddim",
    )


def prompts_of(config: Config) -> list[Prompt]:
    """The prompts of `[sample]`, inline and from the prompt file, with their defaults filled in."""
    defaults = default_prompt(config)
    prompts = [prompt for _, prompt in _parsed(config.sample.prompts, defaults, "")]
    if config.sample.sample_prompts is not None:
        prompts += read_prompts(config.sample.sample_prompts, defaults, "sample.sample_prompts: ")
    return prompts


def read_prompts(path: Path, defaults: Prompt, setting: str = "") -> list[Prompt]:
    """The prompts of a file in kohya's format: one a line, blank lines and those that begin with # left out.

    setting: what names the file, for errors ("sample.sample_prompts: "). Raises LoratoryError where the file cannot be
    read, and names the line that cannot be understood.
    """
    if path.suffix.lower() in (".toml", ".json"):
        raise LoratoryError(
            f"{setting}{path}: prompts are read from a text file, one a line with flags.",
            hint="Write each prompt as a line: fox, snow --w 512 --h 768 --d 7.",
        )
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LoratoryError(f"{setting}cannot read {path}: {error}.") from error
    return [prompt for _, prompt in _parsed(lines, defaults, str(path))]


def _parsed(lines: Sequence[str], defaults: Prompt, source: str) -> Iterator[tuple[int, Prompt]]:
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, parse_prompt(line, defaults, f"{source}, line {number}" if source else "")


# --- what a picture carries ---

_TITLED = {title: name for name, title in SAMPLER_TITLES.items()}
_LAST_LINE = re.compile(
    r"Steps: (?P<steps>\d+), Sampler: (?P<sampler>[^,]+), CFG scale: (?P<scale>[\d.e+-]+), Seed: (?P<seed>\d+), "
    r"Size: (?P<width>\d+)x(?P<height>\d+)"
)


def parameters_text(prompt: Prompt, network: str) -> str:
    """The settings of a picture as A1111 and its successors write and read them in the text chunk "parameters".

    network: which adapter drew it, such as "fox at step 100".
    """
    return (
        f"{prompt.text}\nNegative prompt: {prompt.negative}\nSteps: {prompt.steps}, "
        f"Sampler: {SAMPLER_TITLES[prompt.sampler]}, CFG scale: {prompt.guidance_scale}, Seed: {prompt.seed}, "
        f"Size: {prompt.width}x{prompt.height}, Lora: {network}"
    )


def prompt_of_parameters(text: str) -> Prompt | None:
    """The prompt that `parameters_text` wrote down; None for any other text."""
    head, _, last = text.rpartition("\n")
    words, _, negative = head.partition("\nNegative prompt: ")
    found = _LAST_LINE.match(last)
    if found is None or found["sampler"] not in _TITLED:
        return None
    return Prompt(
        words,
        negative,
        int(found["width"]),
        int(found["height"]),
        int(found["seed"]),
        int(found["steps"]),
        float(found["scale"]),
        _TITLED[found["sampler"]],
    )
