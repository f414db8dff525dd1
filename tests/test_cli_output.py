"""What is said beside a result costs the result nothing."""

import io

import pytest

from loratory.cli import output


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_work_goes_on_when_its_terminal_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    talk = output._Talk(file=said, force_terminal=True, markup=False)
    monkeypatch.setattr(output, "talk", talk)
    with output.working("reading") as tell:
        tell("still reading")
        talk.file = Gone()
        tell("reading to nobody")
    with output.working("not even begun"):
        output.say("unheard")
    talk.file = said
    with output.working("heard again"):
        pass
    assert "reading" in said.getvalue() and "heard again" in said.getvalue()


def test_a_failure_of_the_work_is_told_whatever_the_terminal_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "talk", output._Talk(file=Gone(), force_terminal=True))
    with pytest.raises(ValueError, match="of the work"), output.counting("counting") as tell:
        tell(1, 2)
        raise ValueError("of the work")


def test_counts_are_told_in_their_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = iter([0.0, 2.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))

    class Working:
        def __enter__(self) -> object:
            return said.append

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(output, "working", lambda what: Working())
    with output.counting("writing (MB)", unit=10**6) as tell:
        tell(2_000_000, 6_000_000)
    assert said == ["writing (MB): 2 of 6 · ETA 4 s"]
