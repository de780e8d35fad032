"""Programs that are timed from outside: real servers, and llama-bench as it was recorded."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from edgeprune.support.errors import MachineError, UsageError
from runtime_tests.programs import program
from runtime_tests.programs.client import Client
from tests.support.processes import EDGEPRUNE, run

SERVER = f"{sys.executable} -m llama_cpp.server --model {{model}} --port {{port}} --n_ctx 256"
SHORT = ("--processes", "2", "--rounds", "1", "--prefill", "32", "--decode", "8", "--depth", "16",
         "--threads", "1", "--json")  # fmt: skip
# What llama-bench of b9993 prints of one run, but for what tells of the machine.
RECORDED = """[{"build_commit": "0c1e570", "build_number": 1, "n_prompt": %s, "n_gen": %s,
"n_depth": %s, "avg_ns": 250000000, "stddev_ns": 0, "avg_ts": 128.0, "samples_ns": [250000000],
"samples_ts": [128.0]}]"""


@contextmanager
def served(model):
    command = [EDGEPRUNE, "serve", model, "--port", "0", "--context", "256"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split("/v1")[0]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_servers_are_timed_beside_the_packages_own_runtime(real_checkpoint):
    with served(real_checkpoint.gguf) as address:
        done = run("bench", real_checkpoint.gguf, "--program", SERVER, "--program", address, *SHORT)
    assert done.returncode == 0, done.stderr
    rows = {(row["artifact"], row["test"]): row for row in json.loads(done.stdout)["rows"]}
    own, host = str(real_checkpoint.gguf), address.removeprefix("http://")
    started = next(name for name, _ in rows if name.startswith(f"{own} in "))
    for name in (own, started, host):
        for test in ("pp32", "tg8", "first_token", "peak_memory"):
            samples = rows[name, test]["samples"]
            assert len(samples) == 2
            assert min(min(one) for one in samples) > 0
    assert rows[own, "tg8"]["ratio"] is None
    assert 0.01 < rows[started, "tg8"]["ratio"]["value"] < 2
    assert rows[host, "tg8"]["ratio"]["low"] < rows[host, "tg8"]["ratio"]["high"]
    assert rows[started, "load"]["samples"][0][0] > 0
    assert rows[started, "peak_memory"]["samples"][0][0] > real_checkpoint.gguf.stat().st_size / 2


def test_prompts_have_the_length_that_is_asked_for(real_checkpoint):
    with served(real_checkpoint.gguf) as address:
        client = Client(f"{address}/v1")
        words = client._fitted(100)
        body = {"prompt": client._prompt(words), "max_tokens": 1}
        read = client._sent("/v1/completions", body, 60)["usage"]["prompt_tokens"]
    assert abs(read - 100) <= 4


def test_what_cannot_be_timed_is_said(real_checkpoint, tmp_path):
    for said in ("no-such-program", "", f"{sys.executable} -m http.server"):
        with pytest.raises(UsageError):
            program(said)
    nobody = program("http://127.0.0.1:9")
    with pytest.raises(MachineError, match="No server answers"), nobody.start(tmp_path, 1):
        pass
    dies = program(f"{sys.executable} -c exit('no-such-option:{{model}}{{port}}')")
    with pytest.raises(MachineError, match="no-such-option"), dies.start(real_checkpoint.gguf, 1):
        pass
    options = ("--program", SERVER, "--batch", "2")
    assert run("bench", real_checkpoint.gguf, *options).returncode == 2


def test_a_server_of_something_else_is_refused(tmp_path):
    """It answers, but with pages."""
    other = program(f"{sys.executable} -m http.server {{port}} --directory {{model}}")
    (tmp_path / "health").touch()
    with other.start(tmp_path, 1) as running, pytest.raises(MachineError, match="did not complete"):
        running.call("prefill_seconds", tokens=8)


def llama_bench(folder, prints):
    path = folder / "llama-bench"
    path.write_text(f"#!{sys.executable}\n{prints}")
    path.chmod(0o755)
    return str(path)


def test_llama_bench_is_asked_for_one_run(real_checkpoint, tmp_path):
    prints = (
        "import sys\n"
        "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        f"print({RECORDED!r} % (given['--n-prompt'], given['--n-gen'], given.get('--n-depth', 0))"
        " if '--model' in given else 'version: 1 (recorded)')\n"
    )
    one = program(f"{llama_bench(tmp_path, prints)} --flash-attn 1")
    assert one.name == "llama-bench --flash-attn 1"
    assert one.version() == "llama-bench 1 (recorded)"
    with one.start(real_checkpoint.gguf, 2) as running:
        assert running.call("prefill_seconds", tokens=32, batch=1) == 0.25
        assert running.call("decode_seconds", prompt_tokens=16, tokens=8, batch=1) == 0.25
        assert running.call("first_token_seconds", prompt_tokens=8) is None
    broken = program(llama_bench(tmp_path, "raise SystemExit('no such model')"))
    refused = pytest.raises(MachineError, match="no such model")
    with broken.start(real_checkpoint.gguf, 2) as running, refused:
        running.call("prefill_seconds", tokens=32)


@pytest.mark.skipif(not shutil.which("llama-server"), reason="llama-server is not on the PATH")
def test_llama_cpps_own_programs(real_checkpoint):
    done = run("bench", real_checkpoint.gguf, "--program", "llama-server", "--program",
               "llama-bench", *SHORT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {(row["artifact"], row["test"]): row for row in json.loads(done.stdout)["rows"]}
    for name in ("llama-server", "llama-bench"):
        assert rows[f"{real_checkpoint.gguf} in {name}", "tg8"]["ratio"]["value"] > 0.3
