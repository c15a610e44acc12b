"""`retort chat` and `retort serve` as processes, with a terminal and without."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

from tests.conftest import FakeServer, StartFakeServer
from tests.e2e.runs import ROOT, retort
from tests.small_run import write_run


class Session:
    """A command in a pseudo-terminal."""

    def __init__(self, *words: str) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words],
            cwd=ROOT,
            env=os.environ | {"TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # for Ctrl-C
        )
        os.close(theirs)
        self.text = ""

    def expect(self, pattern: str, seconds: float = 60) -> str:
        """Returns what it printed up to the pattern, and forgets it."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < deadline, self.text
            if select.select([self.ours], [], [], 0.2)[0]:
                self.text += os.read(self.ours, 4096).decode(errors="replace")
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def end(self) -> int:
        code = self.process.wait(60)
        os.close(self.ours)
        return code


def asked(server: FakeServer) -> int:
    return int(server.stats()["requests"])


def test_a_conversation_streams_stops_and_ends(fake_server: StartFakeServer) -> None:
    slow = fake_server("--words", "400", "--speed", "40")
    session = Session("chat", "--model", "fake", "--base-url", slow.url)
    session.expect(">>> ")
    session.type("What is 2 + 3?\n")
    session.expect(re.escape("\x1b[2m"))
    session.type("\x03")  # Ctrl-C
    session.expect("stopped")
    session.expect(">>> ")
    session.type("\x03")
    assert "/quit" in session.expect(">>> ")
    session.type("/what\n")
    assert "/reset" in session.expect(">>> ")
    session.type("/reset\n")
    assert "a new conversation" in session.expect(">>> ")
    session.type("\x04")  # Ctrl-D
    assert session.end() == 0


def test_a_question_from_a_pipe_is_answered_and_ends(fake_server: StartFakeServer) -> None:
    server = fake_server("--correct", "1", "--malformed", "0", "--truncated", "0")
    words = [sys.executable, "-m", "pipeline", "chat", "--model", "fake", "--base-url", server.url]

    def ask(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60)

    done = ask("What is 2 + 3?\n")
    assert done.returncode == 0, done.stderr
    assert "5" in done.stdout
    assert "<think>" not in done.stdout + done.stderr
    assert len(done.stderr) > len(done.stdout)  # the reasoning
    empty = ask("\n")
    assert empty.returncode == 2
    assert "one question" in empty.stderr
    server.stop()
    gone = ask("What is 2 + 3?\n")
    assert gone.returncode == 3
    assert gone.stderr.startswith("retort: stopped: no answer: ")
    assert gone.stderr.count("\n") == 1


def test_a_signal_ends_the_session_also_during_an_answer(fake_server: StartFakeServer) -> None:
    slow = fake_server("--words", "400", "--speed", "40")
    session = Session("chat", "--model", "fake", "--base-url", slow.url)
    session.expect(">>> ")
    session.type("What is 2 + 3?\n")
    session.expect(re.escape("\x1b[2m"))
    session.process.send_signal(signal.SIGTERM)
    assert session.end() == 130


def test_mistakes_are_told_before_anything_is_started(tmp_path: Path) -> None:
    write_run(tmp_path / "small")
    refusals = {
        ("chat",): "chat takes a RUN, or --model",
        ("chat", "small", "--model", "m"): "chat takes a RUN, or --model",
        ("chat", "nosuch"): "no run there",
        ("chat", "small"): "no \\[student\\]",
        ("chat", "small", "--prompt", "plain"): "--prompt is for --model",
        ("chat", "--model", "m", "--api-key-env", "K"): "--base-url",
        ("chat", "--model", "./nosuch"): "no such model",
        ("chat", "--model", "m", "--base-url", "nowhere"): "http://HOST:PORT/v1",
        ("serve", "nosuch"): "no run there",
        ("serve", "small"): "no \\[student\\]",
    }
    for words, message in refusals.items():
        done = retort(tmp_path, *words)
        assert done.returncode == 2, (words, done.stderr)
        assert re.search(message, done.stderr), (words, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
