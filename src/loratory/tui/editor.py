"""The tag editor without its screen: what each verb does to the session, and the sentence that tells it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from loratory.editing.checks.finding import CaptionFinding, Fix, RecipeFix
from loratory.editing.checks.fixing import plan_fixes
from loratory.editing.items import Item
from loratory.editing.session import Plan, Session
from loratory.editing.settings import PALETTE_SLOTS
from loratory.errors import LoratoryError
from loratory.tags.edits import Add, Edit, Rename, SetText, past
from loratory.tags.journal import Outcome
from loratory.tags.text import key
from loratory.tui.finding_index import FindingIndex
from loratory.tui.selection import Selection
from loratory.tui.told import Tell, Told
from loratory.tui.writer import Writer

_RECENT = 30


class Editor:
    """A session, the place in it, and every edit on it.

    Edits show at once; the writer puts them on disk in their order, and what comes back from there (merged with
    somebody else's change, not writable) is taken over as it comes. `tell` is called with a sentence.
    """

    def __init__(self, session: Session, writer: Writer, findings: FindingIndex, tell: Tell) -> None:
        self.session = session
        self.writer = writer
        self.findings = findings
        self.tell = tell
        self.selection = Selection(session.items)
        self.last_edit: Edit | None = None
        self.last_item = ""  # its name
        # Set by the screen: whether somebody is in the middle of something, and what becomes of a caption that was
        # typed and cannot be written.
        self.is_busy: Callable[[], bool] = lambda: False
        self.hand_back: Callable[[Sequence[Item], str], None] = lambda items, text: None
        self.recorded: list[Edit | str] | None = None
        self.last_added: tuple[str, ...] = ()
        self.copied: tuple[str, ...] = ()
        self.recent: list[str] = []
        self.counts: Counter[str] = Counter()
        self.with_underscores = False
        self.uses: dict[str, int] = {}
        self._counted: dict[str, tuple[str, ...]] = {}
        self._spelling: dict[str, str] = {}
        self._pending: Counter[Path] = Counter()
        self._marks_waiting = False
        self.changed_since_survey = False

    # --- the dataset's tags ---

    def count(self, items: Iterable[Item]) -> None:
        """Counts the tags of items anew; call it when their captions changed. `counts` goes by key, `uses` by the tag
        as it is written."""
        for item in items:
            self.counts.subtract(set(self._counted.get(item.name, ())))
            self._counted[item.name] = item.keys
            self.counts.update(set(item.keys))
            self._spelling.update(zip(item.keys, item.tags, strict=True))
        self.uses = {self._spelling[tag]: count for tag, count in self.counts.items() if count > 0}

    def recount(self) -> None:
        """Counts all tags anew: pictures came or went."""
        self.counts.clear()
        self._counted.clear()
        self.count(self.session.items)

    def judge_style(self) -> None:
        """Finds out whether this dataset writes its tags with underscores or with spaces."""
        tags = [tag for item in self.session.items for tag in item.tags]
        self.with_underscores = sum("_" in tag for tag in tags) > sum(" " in tag for tag in tags)

    def written(self, name: str) -> str:
        """A vocabulary's name as this dataset writes tags."""
        if self.with_underscores:
            return name
        spaced = name.replace("_", " ")
        return spaced if key(spaced) == key(name) and any(c.isalnum() for c in name) else name

    # --- edits ---

    @property
    def current(self) -> Item | None:
        return self.selection.current

    def apply(self, edit: Edit, targets: Sequence[Item], *, repeatable: bool = True) -> Plan | None:
        """Does an edit; None (and a sentence) where there is nothing to do it to."""
        if not targets:
            self.tell(Told("no picture here", wrong=True))
            return None
        if repeatable:
            self.last_edit = edit
            self.last_item = targets[0].name if len(targets) == 1 else self.last_item
        if self.recorded is not None and len(targets) == 1:
            self.recorded.append(edit)
        if isinstance(edit, Add):
            self.last_added = edit.tags
            self._remember(edit.tags)
        elif isinstance(edit, Rename):
            self._remember(edit.new)
        typed = edit.text if isinstance(edit, SetText) and len(targets) == 1 else None
        return self.perform(self.session.plan(edit, targets), len(targets), typed=typed)

    def perform(self, plan: Plan, targets: int, *, typed: str | None = None) -> Plan:
        """Shows a plan for so many pictures and has it written. typed: a whole caption that somebody typed, which is
        handed back to them where it cannot be written."""
        if not plan.changes:
            reason = plan.refused[0][1] if plan.refused else "nothing to change"
            where = f"{plan.refused[0][0].name}: " if plan.refused else ""
            self.tell(Told(f"{plan.label}: {where}{reason}", wrong=bool(plan.refused)))
            return plan
        if self.session.settings.vocabulary is None and self.session.known_site is not None:
            # From the first change on the guess stands: it must not turn over as captions change.
            self.session.settings.vocabulary = self.session.known_site
            self.save_settings()
        self.session.show(plan)
        paths = [change.path for change in plan.changes]
        self._pending.update(paths)
        self._looks_different(paths)
        sentence = _sentence(plan, targets)
        writing = Told(f"being written · {sentence}")
        written = Told(f"{sentence} · u undoes it" if targets == 1 else f"u undoes it · {sentence}")
        self.tell(writing)

        def committed(result: Outcome | LoratoryError) -> None:
            self.tell(written, writing)
            self._committed(plan, paths, result)
            if typed is not None and (isinstance(result, LoratoryError) or result.skipped):
                self.hand_back(self.session.items_of(paths[0]), typed)

        self.writer.put(lambda: self.session.commit(plan), committed)
        return plan

    def remember_added(self, tags: tuple[str, ...], *, front: bool) -> None:
        """Makes all that one visit of the prompt added what is repeated and carried forward."""
        self.last_added = tags
        self.last_edit = Add(tags, position="start" if front else "end")

    def undo(self, batch_id: int | None = None) -> None:
        """Undoes a batch, by default the last change of the dataset, after what is still being written."""
        self._journal_job("undid", lambda: self.session.journal.undo(batch_id))

    def redo(self) -> None:
        self._journal_job("did again", self.session.journal.redo)

    def recover(self, *, finish: bool) -> None:
        """Ends a batch that a killed process left half done."""
        journal = self.session.journal
        self._journal_job("finished" if finish else "rolled back", journal.finish if finish else journal.roll_back)

    def repeat(self, targets: Sequence[Item]) -> None:
        if self.last_edit is None:
            self.tell(Told("no edit to repeat yet", wrong=True))
            return
        self.apply(self.last_edit, targets)

    # --- palette, marks, settings ---

    @property
    def palette(self) -> list[str]:
        """The ten slots; "" is a free one."""
        tags = self.session.settings.palette
        return [*tags, *[""] * (PALETTE_SLOTS - len(tags))]

    def set_slot(self, slot: int, tag: str) -> None:
        """Puts a tag (or "" for none) on a slot, 0 to 9 for keys 1 to 9 and 0."""
        slots = self.palette
        slots[slot] = tag
        while slots and not slots[-1]:
            slots.pop()
        self.session.settings.palette = slots
        self.save_settings()
        where = (slot + 1) % PALETTE_SLOTS
        self.tell(Told(f"{where} is now “{tag}”" if tag else f"{where} is free"))

    def to_palette(self, tag: str) -> None:
        slots = self.palette
        if key(tag) in {key(other) for other in slots if other}:
            self.tell(Told(f"“{tag}” is on the palette already"))
        elif "" not in slots:
            self.tell(Told("the palette is full: `:slot 3 TAG` replaces one", wrong=True))
        else:
            self.set_slot(slots.index(""), tag)

    def keep(self, tag: str, found: Sequence[CaptionFinding]) -> None:
        """Has the rules that complain of a tag leave it alone in this dataset."""
        rules = sorted({finding.rule for finding in found if key(tag) in {key(named) for named in finding.tags}})
        if not rules:
            self.tell(Told(f"nothing is said of “{tag}”"))
            return
        for rule in rules:
            self.session.settings.keep(rule, tag)
        self.save_settings()
        self.tell(Told(f"“{tag}” is kept in this dataset ({', '.join(rules)}) · `:unkeep {tag}` takes it back"))

    def review(self, items: Sequence[Item], reviewed: bool) -> None:
        self.session.review(items, reviewed)
        self.save_marks()

    def save_marks(self) -> None:
        """Writes who was reviewed and what was answered; many calls in a row cost one write."""
        if self._marks_waiting:
            return
        self._marks_waiting = True

        def work() -> None:
            self._marks_waiting = False
            self.session.save_marks()

        self.writer.put(work, self._only_errors)

    def save_settings(self) -> None:
        self.writer.put(self.session.save_settings, self._only_errors)

    def table(self) -> list[tuple[str, int]]:
        """Every tag with the number of pictures it is on, commonest first."""
        return sorted(self.uses.items(), key=lambda use: (-use[1], use[0]))

    # --- what comes back from the disk ---

    def take_over(self, items: Sequence[Item]) -> None:
        """Reads captions that somebody else changed on disk; those that we are just writing wait."""
        changed: list[Item] = []
        for item in [item for item in items if item.caption_path not in self._pending]:
            problem = item.problem
            # One that can be read again is news even if its bytes are the old ones.
            if item.read() or (problem and not item.problem):
                changed.append(item)
            elif item.problem != problem:
                self.tell(Told(f"{item.caption_name} {item.problem}", wrong=True))
        if changed:
            self._count_and_check(changed)
            names = changed[0].name if len(changed) == 1 else f"{len(changed)} captions"
            self.tell(Told(f"{names} changed on disk; taken over"))

    def fix_all(self, finding: CaptionFinding, targets: Sequence[Item]) -> None:
        """Applies to each of the targets its own fix for the same finding, where it has the finding."""
        found = [other for item in targets for other in self.same_finding(finding, item)]
        label = f"fix “{finding.rule}”"
        self.perform(plan_fixes(self.session, found, label), len(targets))

    def same_finding(self, finding: CaptionFinding, item: Item) -> list[CaptionFinding]:
        """The findings of a picture by the same rule about the same tag."""
        wanted = [key(tag) for tag in finding.tags[:1]]
        found = self.findings.of(item)
        return [other for other in found if other.rule == finding.rule and [key(t) for t in other.tags[:1]] == wanted]

    def apply_fix(self, fix: Fix, targets: Sequence[Item]) -> None:
        """Applies a fix to `targets`, or to the whole set where that is what it is for; pictures stay as they are."""
        if isinstance(fix.edit, RecipeFix):
            self.tell(Told(f"“{fix.label}” changes the picture: `loratory check --fix` does it, or the pane Prepare"))
            return
        self.apply(fix.edit, list(self.session.items) if fix.scope == "dataset" else targets)

    def _journal_job(self, done: str, work: Callable[[], Outcome]) -> None:
        was_at = self.current

        def finished(result: Outcome | LoratoryError) -> None:
            if isinstance(result, LoratoryError):
                self.tell(Told.of(result))
                return
            changed = self.session.settle(result)
            self._count_and_check(changed)
            if result.batch is None:
                self.tell(Told(f"nothing to be {done}" if done != "undid" else "nothing to undo"))
                return
            count = len(result.written)
            skipped = _skipped(result)
            # It is shown what was undone, unless somebody has gone on meanwhile.
            if changed and self.current not in changed and self.current is was_at and not self.is_busy():
                self.selection.go_to(changed[0])
            # An undo's label says so itself.
            what = result.batch.label if result.batch.undoes is not None else f"{done}: {result.batch.label}"
            self.tell(Told(f"{what} ({_captions(count)}){skipped}", wrong=bool(result.skipped)))

        self.writer.put(work, finished)

    def _committed(self, plan: Plan, paths: Sequence[Path], result: Outcome | LoratoryError) -> None:
        self._pending.subtract(paths)
        for path in [path for path, count in self._pending.items() if count <= 0]:
            del self._pending[path]
        if isinstance(result, LoratoryError):
            self._read_again(paths)
            self.tell(Told.of(result, f"{plan.label}: not written. "))
            return
        # What was written as planned is in memory already; ten thousand files are not read again.
        self._read_again({*result.merged, *(path for path, _ in result.skipped)})
        if result.merged:
            name = result.merged[0].name if len(result.merged) == 1 else f"{len(result.merged)} captions"
            self.tell(Told(f"{plan.label}: {name} had been changed on disk; both changes are in it now"))
        if result.skipped:
            self.tell(Told(f"{plan.label}{_skipped(result)}", wrong=True))

    def _read_again(self, paths: Iterable[Path]) -> None:
        """Takes over what the disk has, but for captions with later edits still on their way."""
        changed = [
            item for path in paths if path not in self._pending for item in self.session.items_of(path) if item.read()
        ]
        self._count_and_check(changed)

    def _looks_different(self, paths: Iterable[Path]) -> None:
        self._count_and_check([item for path in paths for item in self.session.items_of(path)])

    def _count_and_check(self, items: Sequence[Item]) -> None:
        self.count(items)
        self.findings.touch(items)
        self.changed_since_survey = True

    def _remember(self, tags: Iterable[str]) -> None:
        for tag in tags:
            if tag in self.recent:
                self.recent.remove(tag)
            self.recent.insert(0, tag)
        del self.recent[_RECENT:]

    def _only_errors(self, result: object) -> None:
        if isinstance(result, LoratoryError):
            self.tell(Told.of(result))


def _sentence(plan: Plan, targets: int) -> str:
    done, _ = past(plan.label)
    changed = f"{len(plan.changes)} of {targets}: " if targets > 1 else ""
    refused = f"{len(plan.refused)} cannot be changed: " if plan.refused else ""
    return f"{changed}{refused}{done}"


def _captions(count: int) -> str:
    return "1 caption" if count == 1 else f"{count} captions"


def _skipped(outcome: Outcome) -> str:
    if not outcome.skipped:
        return ""
    path, reason = outcome.skipped[0]
    more = f" and {len(outcome.skipped) - 1} more" if len(outcome.skipped) > 1 else ""
    return f" · left alone: {path.name} ({reason}){more}"
