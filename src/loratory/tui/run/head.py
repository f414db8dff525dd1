"""How a run stands, in words: its state, where it is trained, how far it is, what to do where it has ended. Pure."""

import socket
import time
from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content

from loratory.runs.progress import Progress
from loratory.runs.store import ALIVE, RunDirectory
from loratory.runs.way_back import resume_command
from loratory.tui.run.follower import Standing
from loratory.tui.run.signs import colour_of, sign
from loratory.tui.text import ASCII, Glyphs, fitted, plain, printable, wrapped
from loratory.wording import spoken_pace, spoken_time

_OUT_OF_MEMORY = "out of memory"
_NARROWEST_BAR = 10
_DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Situation:
    """All that the words need. is_own: this very process trains it. behind: share of the events still to be read."""

    run: RunDirectory
    standing: Standing | None
    progress: Progress
    is_own: bool
    behind: float
    now_s: float
    is_read_only: bool = False

    @property
    def state(self) -> str:
        """The state in one word; "not started" for a run that no process ever had, "gone" without its folder."""
        if self.standing is None:
            return "starting"
        if self.standing.is_gone:
            return "gone"
        if self.standing.is_new and self.progress.started is None and self.progress.phase is None:
            return "not started"
        return self.standing.state

    @property
    def is_alive(self) -> bool:
        return self.state in ALIVE

    @property
    def is_out_of_memory(self) -> bool:
        finished = self.progress.finished
        return self.state == "failed" and finished is not None and _OUT_OF_MEMORY in finished.message.lower()


def clock(time_s: float, now_s: float) -> str:
    """`22:01`; with its date where that is not of the last day."""
    return time.strftime("%H:%M" if now_s - time_s < _DAY_S else "%d %b %H:%M", time.localtime(time_s))


def status_line(situation: Situation, width: int, glyphs: Glyphs) -> Content:
    """State, place and time, and what people changed."""
    state, progress, standing = situation.state, situation.progress, situation.standing
    parts: list[str] = []
    record = standing.record if standing else None
    if record is not None:
        here = record.host == socket.gethostname()
        if situation.is_own and situation.is_alive:
            parts.append("this program, in a thread")
        else:
            parts.append(f"process {record.pid}" + ("" if here else f" on {record.host}"))
        parts.append(f"since {clock(record.started_s, situation.now_s)}")
        if state == "silent":
            parts.append(f"nothing heard for {spoken_time(situation.now_s - record.heartbeat_s)}")
    changes = progress.adjustments
    if changes.rate != 1:
        parts.append(f"rates x {changes.rate:g}")
    if changes.skipped:
        parts.append(f"{len(changes.skipped)} {'picture' if len(changes.skipped) == 1 else 'pictures'} left out")
    if situation.is_read_only:
        parts.append("read-only")
    said = f" {glyphs.dot} ".join(parts)
    word = sign(state, glyphs)
    room = width - cell_len(word) - 4
    return Content.assemble(
        " ", (printable(word), f"bold {colour_of(state)}"), "  ", (fitted(said, room), "$foreground-muted")
    )


def progress_line(situation: Situation, width: int, glyphs: Glyphs) -> Content:
    """`epoch 4/10 ━━━╸─── 38%  step 194/510  1.42 s/step  ETA 7 min 29 s`; what matters least gives way first."""
    progress = situation.progress
    if situation.behind:
        done = 1 - situation.behind
        return _bar_line("reading what happened so far", done, [f"{done:.0%}"], width, glyphs)
    phase = progress.phase
    if phase is not None and situation.is_alive:
        share = phase.done / phase.total if phase.total else 0.0
        after = [f"{phase.done}/{phase.total}"] if phase.total > 1 else []
        return _bar_line(phase.name, share, after, width, glyphs)
    if progress.started is None:
        return Content("")
    total = progress.total_steps
    share = progress.step / total if total else 0.0
    after = [f"{share:.0%}", f"step {progress.step}/{total}"]
    if progress.seconds_per_step:
        after.append(spoken_pace(progress.seconds_per_step))
    if progress.eta_s and situation.state == "running":
        after.append(f"ETA {spoken_time(progress.eta_s)}")
    return _bar_line(f"epoch {progress.epoch}/{progress.epochs}", share, after, width, glyphs)


def _bar_line(before: str, share: float, after: list[str], width: int, glyphs: Glyphs) -> Content:
    before = fitted(printable(before), min(cell_len(printable(before)), width // 2), glyphs.ellipsis)
    # The pace goes before the time that follows from it.
    while len(after) > 1 and width - len("   ".join(after)) - cell_len(before) - 4 < _NARROWEST_BAR:
        after = [*after[:-2], after[-1]] if len(after) > 2 else after[:1]
    said = "   ".join(after)
    room = width - cell_len(before) - len(said) - 5
    filled, rest = bar(share, max(0, room), glyphs)
    return Content.assemble(
        " ",
        before,
        " ",
        (printable(filled), "$text-accent"),
        (printable(rest), "$foreground-muted"),
        printable(f"  {said}"),
    )


def bar(share: float, width: int, glyphs: Glyphs) -> tuple[str, str]:
    """What is done and what is not, told apart by their characters as well as by colour."""
    full, half, none = ("#", "", "-") if glyphs is ASCII else ("━", "╸", "─")
    halves = int(2 * width * min(1.0, max(0.0, share)))
    filled = full * (halves // 2) + half * (halves % 2)
    return filled, none * (width - len(filled))


def advice(situation: Situation) -> list[str]:
    """Sentences for a run that needs somebody: why it stands still, and what to do."""
    progress, state = situation.progress, situation.state
    finished = progress.finished
    told: list[str] = []
    if situation.behind or situation.standing is None:
        return told
    from_where = "from its first step: no state was saved"
    if saved := situation.standing.last_state:
        from_where = f"from the state of step {saved.step}, {clock(saved.time_s, situation.now_s)}"
        lost = progress.step - saved.step
        if lost > 0:
            from_where += f"; {lost} {'step is' if lost == 1 else 'steps are'} trained again"
    goes_on = f"c goes on {from_where}. Elsewhere: {resume_command(situation.run)}"
    match state:
        case "crashed":
            record = situation.standing.record
            who = f"The process ({record.pid} on {record.host}) that trained it" if record else "Its process"
            told += [f"{who} is gone without a word, after step {progress.step}. l shows the log.", goes_on]
        case "failed":
            told += [f"{finished.message} {finished.hint}"] if finished else []
            told.append(f"o shows what to change for less memory. {goes_on}" if situation.is_out_of_memory else goes_on)
        case "stopped":
            told += [finished.message] if finished and finished.message else []
            told.append(goes_on)
        case "paused":
            # A full disk takes no event: then the record alone says why.
            reason = progress.paused.reason if progress.paused else ""
            in_record = situation.standing.record.message if situation.standing.record else ""
            told.append(f"{reason or in_record or 'It waits.'} p goes on.")
        case "silent":
            told.append("Its machine has not been heard of. If it is gone, c goes on here " + from_where + ".")
        case "gone":
            told.append(f"{situation.run.path} is not there any more. R lists the runs there are.")
        case "not started":
            told.append(f"Nobody trains this run. c starts it here. Elsewhere: {resume_command(situation.run)}")
        case _:
            pass
    return told


def advice_lines(sentences: list[str], width: int, most: int) -> list[Content]:
    """The sentences as at most `most` lines."""
    rows = [row for sentence in sentences for row in wrapped(sentence, max(1, width - 2))]
    return [plain(f" {row}", "$text-warning") for row in rows[:most]]
