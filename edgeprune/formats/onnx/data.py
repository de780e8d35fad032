"""External data: the weights beside the graph, in one file written tensor by tensor."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from onnx import TensorProto, helper

# Runtimes map large tensors where they begin on a page; small ones only need to be aligned.
_PAGE, _ALIGNMENT, _LARGE = 4096, 64, 1 << 20


class ExternalData:
    """The external data file of a model.

    Args:
        path: the file to write.
        location: the file's name in the model.
    """

    def __init__(self, path: Path, location: str):
        self._file = path.open("wb")
        self._location = location

    def __enter__(self) -> "ExternalData":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, name: str, array: np.ndarray, properties: dict[str, str]) -> TensorProto:
        """Write a tensor, and return the initializer that refers to it."""
        alignment = _PAGE if array.nbytes >= _LARGE else _ALIGNMENT
        self._file.write(bytes(-self._file.tell() % alignment))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(array).data)
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": self._location, "offset": offset, "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        for key, value in properties.items():
            tensor.metadata_props.add(key=key, value=value)
        return tensor


@contextmanager
def atomic_model(path: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder for a model; move it and ``<name>.data`` to their places.

    The old model goes first: there is never a model beside another's data.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
        temporary = Path(name, path.name)
        yield temporary
        data = f"{path.name}.data"
        for part in (temporary, temporary.with_name(data)):
            with part.open("rb") as file:
                os.fsync(file.fileno())
        path.unlink(missing_ok=True)
        temporary.with_name(data).replace(path.with_name(data))
        temporary.replace(path)
