"""Hostile GGUF and ONNX files: good ones, plain and packed, mutated and read every way there is.

    python benchmarks/fuzz.py --files 20000
    python benchmarks/fuzz.py --files 20000 --kind onnx

Each file is opened, inspected, packed and, where it is packed, unpacked. Whatever happens must be a
result or one of edgeprune's errors, within a second and within bounded memory. The first file that
breaks that is kept, and its seed is printed: a test is made of it.
"""

import contextlib
import random
import resource
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants
from onnx import TensorProto, helper

from edgeprune.formats.codes import CODES
from edgeprune.formats.gguf import packed as packed_file
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.inspection import inspect
from edgeprune.formats.metadata import SparsityMetadata, read_gguf, read_storage
from edgeprune.formats.onnx import coo as onnx_coo
from edgeprune.formats.onnx import packed as onnx_packed
from edgeprune.formats.onnx.data import ExternalData
from edgeprune.formats.onnx.file import OnnxFile
from edgeprune.formats.onnx.metadata import read_onnx
from edgeprune.formats.onnx.packed import without_expansions
from edgeprune.runtime.onnxruntime.sparse import replace_products
from edgeprune.support.errors import EdgepruneError
from exporters.onnx.graph import CONTRIB, Graph

_SECONDS = 1.0
_MEMORY = 256 << 20  # above what is in use when it starts
_LIES = (0, 1, 7, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 64) - 1)


@click.command()
@click.option("--files", default=20000)
@click.option("--seed", default=0)
@click.option("--kind", type=click.Choice(["gguf", "onnx"]), default="gguf")
def main(files: int, seed: int, kind: str) -> None:
    seeds, read = {"gguf": (gguf_seeds, read_gguf_file), "onnx": (onnx_seeds, read_onnx_file)}[kind]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = [path.read_bytes() for path in seeds(folder)]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
        slowest, refused = 0.0, 0
        for index in range(seed, seed + files):
            data = mutate(random.Random(index), good)
            path = folder / f"case.{kind}"
            path.write_bytes(data)
            start = time.perf_counter()
            try:
                refused += not read(path)
            except BaseException:
                keep(data, index, kind)
                raise
            seconds = time.perf_counter() - start
            slowest = max(slowest, seconds)
            if seconds > _SECONDS:
                keep(data, index, kind)
                raise SystemExit(f"seed {index} took {seconds:.1f} s")
    click.echo(
        f"{files} mutated {kind} files from {seed} on: {refused} refused, {files - refused} read, "
        f"slowest {1000 * slowest:.0f} ms, at most {_MEMORY >> 20} MiB allowed; no crash, no hang."
    )


def gguf_seeds(folder: Path) -> list[Path]:
    """A small pruned GGUF file, some of it in few codes, and its packed form."""
    plain, packed = folder / "plain.gguf", folder / "packed.gguf"
    writer = GGUFWriter(plain, "llama")
    writer.add_string("general.name", "small")
    writer.add_uint32("general.alignment", 32)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_uint32("edgeprune.schema", 1)
    for name in ("sparsity.pattern", "method", "fusion", "task", "base.sha256"):
        writer.add_string(f"edgeprune.{name}", "x")
    writer.add_string("edgeprune.recipe", "{}")
    writer.add_float32("edgeprune.sparsity.target", 0.5)
    writer.add_array("edgeprune.sparsity.tensors", ["blk.0.Q8_0.weight"])
    writer.add_array("edgeprune.sparsity.nonzeros", [128])
    writer.add_array("edgeprune.storage.tensors", ["blk.0.three.weight", "blk.0.masked.weight"])
    writer.add_array("edgeprune.storage.codes", ["3", "2+mask/64"])
    chance = np.random.default_rng(0)
    values = chance.standard_normal((4, 64)).astype(np.float32)
    values[:, ::2] = 0
    for kind in ("Q8_0", "Q4_0", "F16"):
        data = quants.quantize(values, GGMLQuantizationType[kind])
        writer.add_tensor(f"blk.0.{kind}.weight", data, raw_dtype=GGMLQuantizationType[kind])
    scales = np.full((8, 1), 0.5, np.float16).view(np.uint8)
    for name, codes in (("three", range(-4, 4)), ("masked", (-2, -1, 0, 0, 0, 0, 1, 2))):
        stored = (chance.choice(codes, (8, 32)) + 8).astype(np.uint8)
        data = CODES["Q4_0"].join(scales, stored).reshape(4, -1)
        writer.add_tensor(f"blk.0.{name}.weight", data, raw_dtype=GGMLQuantizationType.Q4_0)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    packed_file.pack(plain, packed)
    return [plain, packed]


def onnx_seeds(folder: Path) -> list[Path]:
    """A small pruned ONNX model and its two packed forms.

    It is quantised, some of it in few codes, and in half precision. Only the models change: weights
    beside them are numbers, whatever they are.
    """
    plain, packed, listed = (folder / f"{name}.onnx" for name in ("plain", "packed", "listed"))
    chance, pruned = np.random.default_rng(0), {"edgeprune.pruned": "1"}
    with ExternalData(folder / "plain.onnx.data", "plain.onnx.data") as data:
        graph = Graph(data)
        graph.input("x", TensorProto.FLOAT, ["n", 64])
        few = chance.integers(6, 10, (2, 64, 2, 16), np.uint8)  # -2 to 1
        graph.weight("c.weight", few[0] | few[1] << 4, **pruned)
        graph.weight("c.weight.scales", np.full((64, 2), 0.5, np.float32))
        settings = {"K": 64, "N": 64, "bits": 4, "block_size": 32, "accuracy_level": 4}
        graph.node("MatMulNBits", ["x", "c.weight", "c.weight.scales"], "g", CONTRIB, **settings)
        codes = chance.integers(0, 256, (64, 2, 32), np.uint8)
        codes[..., ::2] = 128
        graph.weight("a.weight", codes, **pruned)
        graph.weight("a.weight.scales", np.full((64, 2), 0.5, np.float32))
        settings |= {"bits": 8}
        graph.node("MatMulNBits", ["g", "a.weight", "a.weight.scales"], "h", CONTRIB, **settings)
        half = chance.standard_normal((64, 4)).astype(np.float16)
        half[::2] = 0
        graph.weight("b.weight", half, **pruned)
        graph.node("Cast", ["b.weight"], "b.weight.float32", to=TensorProto.FLOAT)
        graph.node("MatMul", ["h", "b.weight.float32"], "y")
        graph.output("y", TensorProto.FLOAT, ["n", 4])
    metadata = SparsityMetadata("unstructured", 0.5, "x", "x", "x", {}, "x", {"a.weight": 2048})
    model = graph.model("small", "fuzz")
    helper.set_model_props(model, metadata.properties())
    plain.write_bytes(model.SerializeToString())
    onnx_packed.pack(plain, packed)
    onnx_coo.pack(plain, listed)
    return [plain, packed, listed]


def mutate(chance: random.Random, good: list[bytes]) -> bytes:
    """A good file with a few bytes, numbers or lengths changed, or cut, or with parts repeated."""
    data = bytearray(chance.choice(good))
    for _ in range(chance.randint(1, 4)):
        kind, at = chance.randrange(6), chance.randrange(len(data))
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", chance.choice(_LIES))
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I", chance.choice(_LIES) & 0xFFFFFFFF)
        elif kind == 3:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 4 and len(data) > 64:
            del data[at:]
        else:
            end = min(len(data), at + chance.randint(1, 64))
            data[at:at] = data[at:end]
        if not data:
            break
    return bytes(data)


def read_gguf_file(path: Path) -> bool:
    """Read a GGUF file every way there is; whether all of them took it."""
    out = path.with_suffix(".out")
    ways = (
        lambda: [open_gguf(path).get(key) for key in open_gguf(path)],
        lambda: read_gguf(open_gguf(path)),
        lambda: read_storage(open_gguf(path)),
        lambda: inspect(path),
        lambda: packed_file.unpack(path, out),
        lambda: packed_file.pack(path, out),
    )
    return _taken(ways) == len(ways) - 1  # a file is packed or it isn't


def read_onnx_file(path: Path) -> bool:
    """Read an ONNX file every way there is, but for onnxruntime's; whether it is whole."""
    out = path.with_name("out.onnx")

    def load() -> None:
        file = OnnxFile(path)
        model, arrays = without_expansions(file)
        replace_products(model, arrays, {tensor.name for tensor in file.tensors}, 1)
        for array in arrays.values():
            array()

    ways = (
        lambda: [tensor.values() for tensor in OnnxFile(path).tensors],
        lambda: read_onnx(OnnxFile(path).properties),
        lambda: inspect(path),
        load,
        lambda: onnx_packed.pack(path, out),
        lambda: onnx_coo.pack(path, out),
    )
    return _taken(ways) >= 4


def _taken(ways: Sequence[Callable[[], object]]) -> int:
    taken = 0
    for way in ways:
        with contextlib.suppress(EdgepruneError):
            way()
            taken += 1
    return taken


def keep(data: bytes, seed: int, kind: str) -> None:
    Path(f"fuzz-finding.{kind}").write_bytes(data)
    click.echo(f"seed {seed}: kept as fuzz-finding.{kind}", err=True)


if __name__ == "__main__":
    main()
