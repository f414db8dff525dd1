"""Plans from a process of their own: what it answers, and how its client stays of use whatever becomes of it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import fake_planner
from editor_app import make_pictures
from loratory.cli.plan import plan
from loratory.config.lint import Facts, FolderFacts
from loratory.training.plan_report import facts_from, facts_report
from loratory.tui.plan import planner
from loratory.tui.plan.planner import Answer, Planner

_WAIT_S = 30.0


class Client:
    """A planner, its answers, and what it waited for."""

    def __init__(self, *, measures: bool = False) -> None:
        self.answers: list[Answer] = []
        self.waited: list[str] = []
        self.planner = Planner(self.answers.append, self.waited.append, measures=measures)

    def ask(self, comment: str) -> None:
        self.planner.ask(toml(comment), Path("/x/fox.toml"))

    def until(self, condition: Any) -> None:
        end = time.monotonic() + _WAIT_S
        while not condition():
            assert time.monotonic() < end, (self.waited, self.answers)
            time.sleep(0.005)

    def answer(self, comment: str) -> Answer:
        self.ask(comment)
        self.until(lambda: not self.planner.is_busy and self.answers and self.answers[-1].toml == toml(comment))
        return self.answers[-1]


def toml(comment: str) -> str:
    return f'[output]\ntraining_comment = "{comment}"\n'


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FAKE_PLANNER_LOG", str(tmp_path / "asked"))
    monkeypatch.setattr(planner, "COMMAND", (sys.executable, str(Path(fake_planner.__file__))))
    return tmp_path / "asked"


@pytest.fixture
def client(log: Path) -> Iterator[Client]:
    made = Client()
    yield made
    made.planner.end()


def asked(log: Path) -> list[tuple[int, str]]:
    return [(int(pid), comment) for pid, _, comment in (line.partition(" ") for line in log.read_text().splitlines())]


class TestClient:
    def test_one_process_answers_all(self, client: Client, log: Path) -> None:
        assert client.answer("a").plan["total_steps"] == 1200
        assert client.answer("b").facts["concepts"] == 1
        assert len({pid for pid, _ in asked(log)}) == 1
        assert client.waited[0] == "starting the planner" and client.waited[-1] == ""

    def test_what_is_refused_is_told_with_its_hint(self, client: Client) -> None:
        answer = client.answer("wrong")
        assert not answer.plan and "no concept folder" in answer.error and answer.hint == "Make one."
        assert client.answer("a").plan

    def test_a_dead_process_is_replaced(self, client: Client, log: Path) -> None:
        client.answer("a")
        os.kill(asked(log)[0][0], 9)
        assert client.answer("b").plan
        assert len({pid for pid, _ in asked(log)}) == 2

    def test_a_configuration_that_kills_it_is_told_and_tried_twice_at_most(self, client: Client, log: Path) -> None:
        answer = client.answer("die")
        assert "broke off with status 3" in answer.error and "planner.log" in answer.hint
        assert [comment for _, comment in asked(log)] == ["die", "die"]
        assert client.answer("a").plan

    def test_only_the_newest_of_many_wishes_is_planned(self, client: Client, log: Path) -> None:
        client.ask("slow")
        client.until(lambda: "waiting" in client.waited)
        for number in range(20):
            client.ask(f"n{number}")
        log.with_suffix(".go").touch()
        client.until(lambda: not client.planner.is_busy)
        assert [comment for _, comment in asked(log)] == ["slow", "n19"]

    def test_no_key_waits_for_it(self, client: Client) -> None:
        client.ask("slow")
        client.until(lambda: "waiting" in client.waited)
        began = time.perf_counter()
        for number in range(100):
            client.ask(f"n{number}")
        assert time.perf_counter() - began < 0.5
        client.planner.end()

    def test_the_end_is_at_once_and_takes_the_process_with_it(self, client: Client, log: Path) -> None:
        client.ask("slow")
        client.until(lambda: "waiting" in client.waited)
        client.planner.end()
        client.until(lambda: not any(thread.name == "planner" for thread in threading.enumerate()))
        assert not client.answers and not Path(f"/proc/{asked(log)[0][0]}").exists()

    def test_a_measurement_has_a_process_of_its_own_and_ends_for_a_newer_one(self, log: Path) -> None:
        client = Client(measures=True)
        client.ask("slow")
        client.until(lambda: "waiting" in client.waited)
        assert client.answer("a").plan["measured"]["step_s"] == 0.5
        assert len(client.answers) == 1
        assert client.answer("b").plan and len({pid for pid, _ in asked(log)}) == 3
        client.until(lambda: not Path(f"/proc/{asked(log)[-1][0]}").exists())
        client.ask("slow")
        client.until(lambda: asked(log)[-1][1] == "slow")
        client.planner.cancel()
        client.until(lambda: not client.planner.is_busy)
        assert len(client.answers) == 2
        client.planner.end()

    def test_no_program_to_start_is_told(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planner, "COMMAND", ("/nowhere/python",))
        assert "No process can be started" in client.answer("a").error


def test_facts_survive_their_way_through_json() -> None:
    facts = Facts(
        family="sdxl",
        trained=frozenset({"unet", "te1"}),
        folders=(FolderFacts("10_fox", 3, 10, 100.0, {"fox": 3}),),
        mirrored_folders=("10_fox",),
        buckets={(512, 640): 7},
        total_steps=9,
    )
    assert facts_from(json.loads(json.dumps(facts_report(facts)))) == facts
    assert facts_from(json.loads(json.dumps(facts_report(Facts())))) == Facts()


class Server:
    """The real process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            planner.COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", stderr=subprocess.DEVNULL
        )

    def ask(self, **request: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@pytest.mark.slow
def test_the_server_says_what_the_command_says(tmp_path: Path) -> None:
    make_pictures(tmp_path / "set" / "10_fox", {f"{i}": "fox, side view" for i in range(4)}, (256, 192))
    path = tmp_path / "fox.toml"
    text = '[model]\npretrained_model_name_or_path = "nano"\n[dataset]\ntrain_data_dir = "set"\n'
    text += "[training]\nexposure = 20\n"
    path.write_text(text)
    server = Server()
    server.ask(id=1, toml=text, path=str(path))
    assert server.hear() == {"ready": True}
    answer = server.hear()
    assert answer["id"] == 1 and answer["plan"]["total_steps"] == 80
    said = CliRunner().invoke(plan, [str(path), "--json"])
    assert json.loads(said.stdout) == answer["plan"]
    assert answer["plan"].keys() == fake_planner.PLAN.keys() and answer["facts"].keys() == fake_planner.FACTS.keys()
    assert answer["plan"]["network"][0].keys() == fake_planner.PLAN["network"][0].keys()
    assert facts_from(answer["facts"]).folders is not None

    server.ask(id=2, toml=text.replace('"set"', '"nothing"'), path=str(path))
    wrong = server.hear()
    assert wrong["id"] == 2 and "nothing" in wrong["error"]
    # While one is made the others wait, and of those only the newest is answered.
    for number in range(3, 9):
        server.ask(id=number, toml=text, path=str(path))
    numbers = [server.hear()["id"]]
    while numbers[-1] != 8:
        numbers.append(server.hear()["id"])
    assert len(numbers) < 6 and numbers == sorted(numbers)
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(10) == 0
