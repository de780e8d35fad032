"""Where things stand in the source tree."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "edgeprune" / "runtime"
KERNELS, LLAMA = RUNTIME / "kernels", RUNTIME / "llamacpp"
NATIVE_TESTS = ROOT / "tests" / "native"
SHARED_DATA = ROOT.parent / "shared" / "data"
