"""`edgeprune serve`: requests as an OpenAI client makes them, over loopback."""

import json
import re
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from edgeprune.formats.gguf.packed import pack
from edgeprune.runtime import status
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
