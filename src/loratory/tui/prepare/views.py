"""What the prepare pane says: its state as text, without a widget."""

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content

from loratory.dataset.findings import shown
from loratory.tui.keys import Keymap
from loratory.tui.prepare.crop import Boxes, area, sides
from loratory.tui.prepare.state import PrepareState, Progress
from loratory.tui.prepare.words import (
    cuts,
    duration,
    facts_words,
    percent,
    recipe_words,
    times,
    trained,
    trained_words,
    won_share,
)
from loratory.tui.text import Glyphs, fitted, printable, wrapped

if TYPE_CHECKING:
    from loratory.preparation.desk import Entry

_HANDLES = {"top left": "its top left corner", "bottom right": "its bottom right corner", "box": "all of it"}
_STATES = {
    "new": "to be built",
    "stale": "to be built anew",
    "made": "built",
    "as it is": "as it is",
    "changed by hand": "changed by hand: left alone",
    "source gone": "the original is gone",
}
_OUTPUTS_SHOWN = 3


def state_glyph(state: PrepareState, entry: "Entry", glyphs: Glyphs) -> tuple[str, str]:
    """(sign, colour) for the state of a picture."""
    if state.recipe(entry).skip:
        return "x", "$foreground-muted"
    if state.is_changing(entry) or entry.state == "stale":
        return glyphs.selected, "$text-accent"
    match entry.state:
        case "new":
            return glyphs.untagged, "$text-accent"
        case "made":
            return glyphs.reviewed, "$text-success"
        case "changed by hand":
            return "h", "$text-warning"
        case "source gone":
            return "?", "$text-error"
        case _:
            return glyphs.untouched, "$foreground-muted"


def status_line(state: PrepareState, width: int, glyphs: Glyphs) -> Content:
    """What is going on, what the list shows, and how much there is to do."""
    mode = "PREPARE" if state.boxes is None else "MASK" if state.boxes.kind == "erase" else "CROP"
    dot = f" {glyphs.dot} "
    if state.boxes is not None:
        boxes = state.boxes
        scope = f"moving {_HANDLES[boxes.handle]}{dot}step {boxes.step_px} px{dot}{boxes.ratio}"
        if len(boxes.boxes) > 1:
            scope = f"box {boxes.index + 1} of {len(boxes.boxes)}{dot}{scope}"
        right = ""
    else:
        place = f"{state.cursor + 1 if state.shown else 0}/{len(state.shown)}"
        scope = f"{place}{dot}{state.order}" + (f"{dot}/{state.query_text}" if state.query_text else "")
        pending, found = state.counts
        more = "" if state.is_surveyed else "+"
        right = f"{pending} to be built{dot}{found}{more} with findings "
    room = max(0, width - len(mode) - 5)
    if cell_len(scope) + cell_len(right) > room:
        right = ""
    return Content.assemble(
        " ",
        (printable(f" {mode} "), "reverse bold"),
        " ",
        fitted(scope, room - cell_len(right), glyphs.ellipsis),
        (printable(f" {right}"), "$foreground-muted"),
    )


def progress_line(progress: Progress, now_s: float, width: int, glyphs: Glyphs) -> Content:
    """A build that goes on: a bar, how far, how fast, how long still."""
    progress = replace(progress, now_s=now_s)
    share = progress.done / progress.total if progress.total else 0.0
    dot = f" {glyphs.dot} "
    parts = [f"{percent(share)}", f"{progress.done}/{progress.total}"]
    if progress.looked is not None:
        parts = ["looking", "{}/{}".format(*progress.looked)]
    elif progress.stopping:
        parts.append("stopping after this one")
    elif progress.per_s is not None and progress.left_s is not None:
        rate = progress.per_s
        told = f"{rate:.1f} pictures/s" if rate >= 1 else f"{1 / rate:.0f} s a picture"
        parts += [told, f"{duration(progress.left_s)} left"]
    text = dot.join(parts)
    bar_width = max(8, min(40, width - cell_len(text) - 4))
    full = round(bar_width * share)
    bar, rest = ("#", "-") if glyphs.dot == "-" else ("━", "─")
    name = f"{dot}{shown(progress.name)}" if progress.name else ""
    return Content.assemble(
        " ",
        (printable(bar * full), "$text-accent"),
        (printable(rest * (bar_width - full)), "$foreground-muted"),
        printable(f" {text}"),
        (fitted(name, max(0, width - bar_width - cell_len(text) - 3), glyphs.ellipsis), "$foreground-muted"),
    )


def side_lines(state: PrepareState, keymap: Keymap, width: int, height: int, glyphs: Glyphs) -> list[Content]:
    """The facts of the current picture, its recipe, its findings; or the boxes that are being marked on it."""
    entry = state.current
    if not state.is_loaded:
        return _text(f"looking at the pictures{glyphs.ellipsis}", width, "$foreground-muted")
    if entry is None:
        return _text(_nothing(state), width, "$text-warning")
    if state.boxes is not None:
        return _box_lines(state, state.boxes, width, glyphs)[:height]
    name = Content(fitted(shown(entry.name.rpartition("/")[2]), width, glyphs.ellipsis)).stylize("bold")
    head, details = _fact_lines(state, entry, width, glyphs)
    recipe = _recipe_lines(state, entry, width, glyphs)
    told = _finding_lines(state, entry, keymap, width, glyphs)
    # Where room is short, what is merely worth knowing gives way first, and the recipe never does.
    room = height - 2 - len(head) - len(recipe) - (1 + len(told) if told else 0)
    lines = [name, *head, *details[: max(0, room)], Content(""), *recipe]
    return [*lines, Content(""), *told][:height] if told else lines[:height]


def view_line(state: PrepareState, is_file: bool, measured: str, width: int, glyphs: Glyphs) -> Content:
    """What the picture above shows. is_file: the file that was made. measured: of the difference."""
    entry = state.current
    if entry is None:
        return Content("")
    if state.boxes is not None:
        word = "the boxes are filled" if state.boxes.kind == "erase" else "what is bright is kept"
    elif state.view == "original":
        word = "the original"
    elif state.view == "difference":
        word = measured or f"what is changed{glyphs.ellipsis}"
    elif state.recipe(entry).skip:
        word = "left out"
    else:
        made = "as it is" if entry.state == "as it is" else "as built"
        word = made if is_file else "as it would be built"
    return Content(fitted(word, width, glyphs.ellipsis)).stylize("$foreground-muted")


def _fact_lines(state: PrepareState, entry: "Entry", width: int, glyphs: Glyphs) -> tuple[list[Content], list[Content]]:
    """(how it is trained, or why it cannot be; what else is known of it)."""
    facts = state.facts_of(entry)
    if facts is None:
        return _text(f"looking{glyphs.ellipsis}", width, "$foreground-muted"), []
    if facts.problem:
        return _text(facts.reason or facts.problem, width, "$text-error"), []
    recipe, defaults = state.recipe(entry), state.defaults(entry)
    looks = [trained(sides(box), recipe, defaults, state.trained_by) for box in cuts(recipe, facts.size)]
    more = f", and {len(looks) - 1} more" if looks[1:] else ""
    head = _text("{}x{} {} ".format(*facts.size, glyphs.arrow) + trained_words(looks[0]) + more, width)
    return head, [row for line in facts_words(facts) for row in _text(line, width, "$foreground-muted")]


def _recipe_lines(state: PrepareState, entry: "Entry", width: int, glyphs: Glyphs) -> list[Content]:
    recipe = state.recipe(entry)
    is_plain = entry.state == "as it is" and not state.is_changing(entry)
    words = [] if is_plain else recipe_words(recipe, state.facts_of(entry), state.defaults(entry), state.trained_by)
    told = _STATES.get(entry.state, entry.state)
    if state.is_changing(entry):
        told = f"being saved{glyphs.ellipsis}"
    elif recipe.skip and entry.state == "stale":
        told = "to be taken away"
    lines = _text(told, width, "$text-accent" if state.is_pending(entry) else "$foreground-muted")
    for word in words:
        for index, row in enumerate(wrapped(word, max(1, width - 2))):
            lines.append(Content(fitted(("  " if index else f"{glyphs.dot} ") + row, width, glyphs.ellipsis)))
    if not recipe.skip:
        outputs = [shown(f"{path.parent.name}/{path.name}") for path in entry.outputs[:_OUTPUTS_SHOWN]]
        outputs += [f"and {len(entry.outputs) - _OUTPUTS_SHOWN} more"] if entry.outputs[_OUTPUTS_SHOWN:] else []
        arrow = f"{glyphs.arrow} "
        for output in outputs:
            lines.append(Content(fitted(arrow + output, width, glyphs.ellipsis)).stylize("$foreground-muted"))
    return lines


def _finding_lines(state: PrepareState, entry: "Entry", keymap: Keymap, width: int, glyphs: Glyphs) -> list[Content]:
    lines: list[Content] = []
    fixable = state.fix_of(entry)
    for finding in state.findings_of(entry):
        sign = "$foreground-muted" if finding.severity == "note" else "$text-warning"
        for index, row in enumerate(wrapped(finding.message, width - 2)):
            lines.append(Content.assemble((f"{glyphs.finding} " if index == 0 else "  ", sign), row))
        if finding is fixable:
            fix = finding.fixes[0]
            if not fix.is_recipe:
                does = f"{keymap.keys_of('edit-tags')} in the tag editor: {printable(fix.label)}"
            elif len(finding.fixes) > 1 and finding.automatic_fix is None:
                does = f"{keymap.keys_of('fix')} {len(finding.fixes)} ways to mend it"
            else:
                does = f"{keymap.keys_of('fix')} {printable(fix.label)}"
            lines += [Content(f"  {row}").stylize("$text-accent") for row in wrapped(does, width - 2)]
    return lines


def _box_lines(state: PrepareState, boxes: Boxes, width: int, glyphs: Glyphs) -> list[Content]:
    left, top, right, bottom = boxes.box
    box_width, box_height = sides(boxes.box)
    lines = _text(f"{box_width}x{box_height} px", width, "bold")
    lines += _text(f"at {left},{top} to {right},{bottom}", width, "$foreground-muted")
    lines += _text("of {}x{}".format(*boxes.size), width, "$foreground-muted")
    lines.append(Content(""))
    if boxes.kind == "erase":
        share = area(boxes.box) / (boxes.size[0] * boxes.size[1])
        lines += _text(f"{percent(share)} of the picture, filled from around it", width)
        return lines
    entry = state.current
    assert entry is not None
    won = won_share(boxes.size, boxes.box, state.defaults(entry).resolution)
    if boxes.box == (0, 0, *boxes.size):
        lines += _text("all of the picture", width)
    elif won >= 0.005:
        gained = times(1 / max(1e-9, 1 - won))
        lines += _text(f"wins {percent(won)}: {gained} the px for what is inside", width, "$text-success")
    else:
        lines += _text("wins no px: training enlarges so small a box", width, "$text-warning")
    look = trained((box_width, box_height), state.recipe(entry), state.defaults(entry), state.trained_by)
    lines += _text(trained_words(look), width)
    if look.by_network:
        lines += _text(f"enlarged {times(look.scale)} with a network", width, "$foreground-muted")
    if len(boxes.kept) > 1:
        lines += [Content(""), *_text(f"{len(boxes.kept)} boxes: a picture each", width)]
    return lines


def boxes_keys(keymap: Keymap, boxes: Boxes) -> str:
    """What can be typed while boxes are marked, for the footer."""
    shorts = [action for action in keymap.actions if action.short]
    if boxes.kind == "erase":
        shorts = [action for action in shorts if action.id not in ("suggested", "ratio")]
    names = {"right": "hjkl", "handle": "Tab", "accept": "Enter", "leave": "Esc"}
    parts = [f"{names.get(action.id, keymap.keys_of(action.id))} {action.short}" for action in shorts]
    parts.insert(-2, "m add")
    return "  ".join([*parts, "? keys"])


def _nothing(state: PrepareState) -> str:
    if not state.entries:
        return "No pictures here."
    if state.query_text:
        return f"No picture is {state.query_text}. Esc shows all."
    return f"No picture is {state.order}. Esc shows all."


def _text(text: str, width: int, style: str = "") -> list[Content]:
    rows = wrapped(text, max(1, width)) or [""]
    return [Content(row).stylize(style) if style else Content(row) for row in rows]
