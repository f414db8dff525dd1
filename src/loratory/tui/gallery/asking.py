"""Asks a run for a sample: with the prompt of the one that is looked at, edited."""

from typing import TYPE_CHECKING

from loratory.errors import LoratoryError
from loratory.runs.control import Command, send
from loratory.runs.store import ALIVE, RunDirectory, liveness
from loratory.tui.gallery.shelf import Picture
from loratory.tui.gallery.sources import settings_of

if TYPE_CHECKING:
    from loratory.tui.pane import Panes


def listening(panes: "Panes", run: RunDirectory | None) -> RunDirectory:
    """The run, if there is one that obeys; LoratoryError says why not."""
    if panes.read_only:
        raise LoratoryError("This is a read-only view: nothing is sent to a run.")
    if run is None:
        raise LoratoryError("No run is shown.", hint="4 plans one and starts it.")
    state = liveness(run.read_record())
    if state not in ALIVE:
        raise LoratoryError(
            f"Nobody would draw: the run is {state}.", hint="`loratory grid` draws with the files it saved."
        )
    return run


def proposed_prompt(picture: Picture) -> str:
    """The prompt of a sample with all of its flags, as its file tells them; what the run told of it otherwise."""
    from loratory.sampling.prompts import prompt_line, prompt_of_parameters

    try:
        prompt = prompt_of_parameters(settings_of(picture.path).get("parameters", ""))
    except LoratoryError:
        prompt = None
    return prompt_line(prompt) if prompt else f"{picture.prompt} --d {picture.seed}"


def ask_for_sample(run: RunDirectory, text: str) -> None:
    """Leaves the prompt for the run. Raises LoratoryError for flags that it would not take."""
    from loratory.sampling.prompts import Prompt, parse_prompt

    if not text.strip():
        raise LoratoryError("A sample needs a prompt.")
    parse_prompt(text, Prompt("", "", 512, 512, 0, 20, 7.0))  # said here rather than in the run's log
    try:
        send(run.control, Command("sample", text.strip()))
    except OSError as error:
        raise LoratoryError(f"{run.control}: the command cannot be left there: {error.strerror}.") from error
