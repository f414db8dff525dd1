"""What the keys of the run pane do: commands for the run, and ways to go on with one that has ended."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from loratory.errors import LoratoryError
from loratory.runs.adjustments import LARGEST_RATE, SMALLEST_RATE, rate_of
from loratory.runs.control import Command, CommandName, send
from loratory.runs.events import Obeyed
from loratory.runs.store import RunDirectory
from loratory.tui.text import printable
from loratory.tui.told import Told

if TYPE_CHECKING:
    from loratory.runs.ladder import Rung
    from loratory.tui.run.follower import Follower
    from loratory.tui.run.head import Situation
    from loratory.tui.run.screen import RunScreen

_OBEYED = {
    "stop": "stopped, with the state saved",
    "save": "the adapter is saved",
    "pause": "paused; p goes on",
    "resume": "goes on",
    "sample": "the sample is drawn",
    "skip": "leaves out",
    "unskip": "takes in again",
    "rate": "learning rates x",
}
_CAN_GO_ON = ("stopped", "failed", "crashed", "silent", "not started")


class Verbs:
    """Belongs to a run pane. A verb that is not possible now raises LoratoryError that says why."""

    def __init__(self, pane: "RunScreen") -> None:
        self._pane = pane
        self._choices: Mapping[str, tuple[str, Callable[[], object]]] = {}
        self._told_of_s = time.time()
        self._moving: RunDirectory | None = None  # stopped here to be trained by a process of its own

    # --- a question with a letter for an answer ---

    def _offer(self, question: str, choices: Mapping[str, tuple[str, Callable[[], object]]]) -> None:
        """choices: key -> (what it does, the work)."""
        self._choices = choices
        self._pane.tell(Told(question))

    def legal_keys(self) -> str:
        if not self._choices:
            return ""
        return "   ".join([*(f"{key} {does}" for key, (does, _) in self._choices.items()), "any other key: nothing"])

    def takes_key(self, key: str) -> bool:
        choices, self._choices = self._choices, {}
        if not choices:
            return False
        if key in choices:
            choices[key][1]()
        else:
            self._pane.tell(Told("nothing was done"))
        return True

    # --- what every verb asks first ---

    def _follower(self) -> "Follower":
        if self._pane.follower is None:
            raise LoratoryError("No run is shown.", hint="4 plans one and starts it; R lists the runs there are.")
        return self._pane.follower

    def _situation(self) -> "Situation":
        situation = self._pane.situation(self._follower())
        if situation.standing is None or situation.behind:
            raise LoratoryError("What happened so far is still being read.")
        return situation

    def idle(self) -> Collection[str]:
        """What cannot be done with the run as it stands."""
        follower = self._pane.follower
        if follower is None:
            return ("pause", "save", "sample", "stop", "continue", "next-view", "log", "zoom")
        situation = self._pane.situation(follower)
        ended = () if situation.is_alive else ("pause", "save", "sample", "stop")
        return (*ended, *(() if situation.state in _CAN_GO_ON else ("continue",)))

    def _writable(self) -> "Situation":
        if self._pane.panes.read_only:
            raise LoratoryError("This is a read-only view: nothing is sent to a run.")
        return self._situation()

    def _listening(self) -> "Situation":
        situation = self._writable()
        if not situation.is_alive:
            hint = "c goes on with it." if situation.state in _CAN_GO_ON else ""
            raise LoratoryError(f"Nobody would obey: the run {_stands(situation.state)}.", hint=hint)
        return situation

    def _send(self, name: CommandName, value: str = "", said: str = "") -> None:
        run = self._follower().run
        try:
            send(run.control, Command(name, value))
        except OSError as error:
            raise LoratoryError(f"{run.control}: the command cannot be left there: {error.strerror}.") from error
        self._pane.tell(Told(f"{said or name}: left for the run, which obeys after the step in hand"))

    # --- commands ---

    def pause(self) -> None:
        if self._listening().state == "paused":
            self._send("resume", said="go on")
        else:
            self._send("pause")

    def save(self) -> None:
        self._listening()
        self._send("save", said="save now")

    def sample(self) -> None:
        self._listening()
        first = self._follower().first_prompt or ""

        def answered(text: str) -> None:
            from loratory.sampling.prompts import Prompt, parse_prompt  # not for the first paint

            self._listening()
            changed = text.strip() and text.strip() != first
            if changed:  # flags are refused here rather than in the run's log
                parse_prompt(text, Prompt("", "", 512, 512, 0, 20, 7.0))
            self._send("sample", text.strip() if changed else "", "the sample" if changed else "the samples")

        self._pane.tell(Told("Enter alone draws all prompts of the configuration"))
        self._pane.ask("sample now", first, answered)

    def stop(self) -> None:
        self._listening()
        self._offer(
            "Stop after the step in hand, with the state saved?",
            {"y": ("stop and save", lambda: self._send("stop", said="stop"))},
        )

    def skip(self) -> None:
        situation = self._listening()
        if self._pane.view != "pictures":
            self._pane.look_at("pictures")
            self._pane.tell(Told("i on a picture leaves it out, or takes it in again"))
            return
        image = self._pane.row
        if not isinstance(image, str):
            raise LoratoryError("No picture stands at the cursor.")
        if image in situation.progress.adjustments.skipped:
            self._send("unskip", image, f"take {printable(image)} in again")
        else:
            self._send("skip", image, f"leave {printable(image)} out")

    def rate(self) -> None:
        situation = self._listening()

        def answered(text: str) -> None:
            self._listening()
            if rate_of(text.strip()) is None:
                raise LoratoryError(f"A factor is a number from {SMALLEST_RATE:g} to {LARGEST_RATE:g}, such as 0.5.")
            self._send("rate", text.strip(), f"learning rates x {text.strip()}")

        factor = f"{situation.progress.adjustments.rate:g}"
        self._pane.ask("factor on the learning rates of the config", factor, answered)

    # --- where it is trained ---

    def detach(self) -> None:
        situation = self._listening()
        if not situation.is_own:
            raise LoratoryError("It has a process of its own already: it goes on when you leave.")

        def move() -> None:
            self._listening()
            self._moving = situation.run
            self._send("stop", said="move: stop here first")

        self._offer(
            "Stop here with the state saved, and go on in a process of its own? It costs the time to save and to load "
            "the model again; the result is the same.",
            {"y": ("move it", move)},
        )

    def go_on(self) -> None:
        situation = self._can_go_on()
        where = {
            "h": ("here", lambda: self._resume(situation.run, detached=False)),
            "d": ("in a process of its own", lambda: self._resume(situation.run, detached=True)),
        }
        self._offer(f"The run {_stands(situation.state)}. Go on where?", where)

    def _can_go_on(self) -> "Situation":
        situation = self._writable()
        if situation.state not in _CAN_GO_ON:
            hint = "p goes on after a pause." if situation.state == "paused" else ""
            raise LoratoryError(f"There is nothing to go on with: the run {_stands(situation.state)}.", hint=hint)
        return situation

    def _resume(self, run: RunDirectory, *, detached: bool) -> None:
        self._pane.panes.resume(run, detached=detached)
        self._pane.tell(Told("goes on in a process of its own" if detached else "goes on in this program"))

    def memory(self) -> None:
        """The ladder of what to change when memory ran out."""
        from loratory.config.load import load_config
        from loratory.runs.ladder import ladder
        from loratory.tui.screens.overlays import Choice, TableRow, TableScreen

        situation = self._can_go_on()
        trained = situation.standing is not None and situation.standing.last_state is not None
        rungs = ladder(load_config(situation.run.config), trained)
        rows = [TableRow(f"{_settings(rung)}: {rung.sentence}", rung) for rung in rungs]

        def chosen(choice: "Choice[Rung] | None") -> None:
            if choice is not None:
                self._pane.attempt(lambda: self._change(situation.run, choice.value, detached=choice.key == "d"))

        screen = TableScreen(
            "For less memory, what costs least first. Go on with:",
            rows,
            {"enter": "here", "d": "detached"},
            "Nothing is left to change: all of it is in force already.",
        )
        self._pane.app.push_screen(screen, chosen)

    def _change(self, run: RunDirectory, rung: "Rung", *, detached: bool) -> None:
        from loratory.runs.resume import open_for_resume

        self._can_go_on()
        open_for_resume(run, [f"{key}={json.dumps(value)}" for key, value in rung.settings.items()])
        self._resume(run, detached=detached)

    # --- what came of it ---

    def tick(self) -> None:
        """Tells what the run has obeyed since, whoever asked; goes on with a run that was stopped to be moved."""
        follower = self._pane.follower
        if follower is None:
            return
        if follower.problem:
            problem, follower.problem = follower.problem, ""
            self._pane.tell(Told(problem, wrong=True))
        if follower.behind:
            return
        with follower.lock:
            obeyed = [(time_s, each) for time_s, each in follower.progress.obeyed if time_s > self._told_of_s]
        if obeyed:
            self._told_of_s, newest = obeyed[-1]
            self._pane.tell(Told(f"after step {newest.step}: {_came(newest)}"))
        if self._moving is not None:
            self._move(self._moving)

    def _move(self, run: RunDirectory) -> None:
        own = self._pane.panes.own_run
        if own is not None and own.is_alive:
            return
        self._moving = None
        if own is not None and own.finished is not None and own.finished.status == "stopped":
            self._pane.attempt(lambda: self._resume(run, detached=True))
        else:
            self._pane.tell(Told("the run has ended before it could be moved"))


def _stands(state: str) -> str:
    return {"failed": "has failed", "crashed": "has crashed", "stopped": "was stopped"}.get(state, f"is {state}")


def _settings(rung: "Rung") -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in rung.settings.items())


def _came(obeyed: Obeyed) -> str:
    said = _OBEYED.get(obeyed.command, obeyed.command)
    return f"{said} {printable(obeyed.value)}" if obeyed.command in ("skip", "unskip", "rate") else said
