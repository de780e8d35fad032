"""`edgeprune serve`: requests as an OpenAI client makes them, over loopback."""

import json
import re
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from edgeprune.formats.chat import NO_CALL, call_in
from edgeprune.formats.gguf.packed import pack
from edgeprune.runtime import status
from edgeprune.runtime.llamacpp import calls
from edgeprune.runtime.llamacpp.calls import App
from edgeprune.runtime.llamacpp.chat import Chat
from exporters.base import StorageRequest
from tests.support.exporting import Counter, export_gguf
from tests.support.gguf import metadata
from tests.support.processes import EDGEPRUNE

QUESTION = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 8,
    "temperature": 0,
}


@contextmanager
def served(model, *options):
    command = [EDGEPRUNE, "serve", model, "--port", "0", "--context", "256", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+/v1)", line)
        assert found, line + process.stderr.read()
        yield found[1]
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert "Sparse weights are off" not in said


def ask(address, body, key=None):
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/chat/completions", data, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read().decode()


def test_answers_streams_and_keys(real_checkpoint):
    with served(real_checkpoint.gguf, "--api-key", "secret") as address:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(address, QUESTION)
        answer = json.loads(ask(address, QUESTION, "secret"))
        text = answer["choices"][0]["message"]["content"]
        assert text
        parts = ask(address, QUESTION | {"stream": True}, "secret").split("data: ")
        assert parts[-1].strip() == "[DONE]"
        pieces = [json.loads(part)["choices"][0]["delta"] for part in parts[1:-1]]
        assert "".join(piece.get("content", "") for piece in pieces) == text


def test_a_packed_model_is_served_with_sparse_weights(pruned_tiny, tmp_path):
    if not status().on:
        pytest.skip(f"sparse weights are off here, so this was not checked: {status().reason}")
    export_gguf(
        pruned_tiny, StorageRequest("q8_0"), tmp_path / "m.gguf", metadata(), "t", Counter()
    )
    pack(tmp_path / "m.gguf", tmp_path / "m.packed.gguf")
    with served(tmp_path / "m.packed.gguf") as address:
        assert json.loads(ask(address, QUESTION))["choices"]


def test_wrong_use_is_said_without_a_traceback(tmp_path, real_checkpoint):
    def run(*arguments):
        command = [EDGEPRUNE, "serve", *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    missing = run(tmp_path / "absent.gguf")
    assert (missing.returncode, "No such GGUF file" in missing.stderr) == (3, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = run(real_checkpoint.gguf, "--port", taken.getsockname()[1])
    assert (busy.returncode, "Choose another --port" in busy.stderr) == (4, True)
    assert "Traceback" not in missing.stderr + busy.stderr


LAMP = {
    "type": "function",
    "function": {
        "name": "turn_on",
        "parameters": {
            "type": "object",
            "properties": {"lamp": {"type": "string", "enum": ["hall", "attic"]}},
            "required": ["lamp"],
        },
    },
}


@pytest.fixture
def lamp_task(tmp_path):
    asked = [{"role": "user", "content": "Light in the hall"}]
    row = {
        "messages": asked, "tools": [LAMP],
        "calls": [{"name": "turn_on", "arguments": {"lamp": ["hall"]}}],
    }  # fmt: skip
    path = tmp_path / "lamps.jsonl"
    for number in range(40):
        asked[0]["content"] = f"Light in the hall, please, for the time number {number}"
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return path


def test_calls_are_answered_in_openais_form(real_checkpoint, lamp_task):
    asked = {"messages": [{"role": "user", "content": "Turn on the lamp in the hall."}],
             "max_tokens": 64, "temperature": 0}  # fmt: skip
    options = ("--task", str(lamp_task), "--grammar", "--context", "512")
    with served(real_checkpoint.gguf, *options) as address:
        (free,) = json.loads(ask(address, asked))["choices"]
        asked["tool_choice"] = {"type": "function", "function": {"name": "turn_on"}}
        (choice,) = json.loads(ask(address, asked))["choices"]
        parts = ask(address, asked | {"stream": True}).split("data: ")
        (plain,) = json.loads(ask(address, asked | {"tools": [LAMP], "tool_choice": "none"}))[
            "choices"
        ]
    assert free["message"]["content"] == NO_CALL or free["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "turn_on"
    assert json.loads(call["function"]["arguments"])["lamp"] in ("hall", "attic")
    streamed = [json.loads(part)["choices"][0] for part in parts[1:-1]]
    (again,) = (one["delta"]["tool_calls"][0] for one in streamed if "tool_calls" in one["delta"])
    assert again["function"] == call["function"]
    assert streamed[-1]["finish_reason"] == "tool_calls"
    assert plain["message"]["content"]
    assert plain["finish_reason"] != "tool_calls"


def test_a_chat_shows_calls_as_json(real_checkpoint, monkeypatch):
    rules = calls.call_grammar
    monkeypatch.setattr(calls, "call_grammar", lambda *of, must: rules(*of, must=not must))
    chat = Chat(real_checkpoint.gguf, 512, App([LAMP], in_grammar=True))
    said = "".join(chat.answer("Turn on the lamp in the hall.", 64, 0.0))
    assert call_in(said) == json.loads(said)
    assert json.loads(said)["name"] == "turn_on"


def test_only_tasks_with_functions_have_them(real_checkpoint):
    command = [EDGEPRUNE, "chat", real_checkpoint.gguf]
    for options, words in (
        (["--task", "medqa"], "brings nothing to a chat"),
        (["--grammar"], "--grammar needs functions"),
    ):
        wrong = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert wrong.returncode == 2
        assert words in wrong.stderr


def test_a_servers_answers_are_scored(real_checkpoint):
    """With the same rows and the same rules as the file's own."""
    command = [EDGEPRUNE, "eval", "--task", "app_actions", "--rows", "4", "--json"]
    command += ["--perplexity-tokens", "512"]
    with served(real_checkpoint.gguf) as address:
        done = subprocess.run(
            [*command, "--url", address], check=True, capture_output=True, text=True
        )
        refused = subprocess.run(
            [EDGEPRUNE, "eval", "--task", "medqa", "--url", address],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
    assert refused.returncode == 2
    assert "scored by likelihoods" in refused.stderr
    through = json.loads(done.stdout)
    done = subprocess.run(
        [*command, real_checkpoint.gguf], check=True, capture_output=True, text=True
    )
    own = json.loads(done.stdout)
    assert through["answers"]["rows"] == own["answers"]["rows"]
    assert through["answers"]["correct"] == own["answers"]["correct"]
    assert through["accuracy"] == own["accuracy"]
    absent = subprocess.run(
        [EDGEPRUNE, "eval", "--task", "app_actions", "--url", address],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert absent.returncode == 4
    assert "does not answer" in absent.stderr
