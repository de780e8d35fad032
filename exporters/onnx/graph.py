"""A graph under construction: nodes in order, each named after its output."""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgeprune.formats.onnx.data import ExternalData

CONTRIB = "com.microsoft"
OPSET = 23
_IR_VERSION = 11  # the first that carries properties of tensors was 10


class Graph:
    """Nodes and initializers of one model.

    Args:
        data: data file for large initializers.
    """

    def __init__(self, data: ExternalData):
        self._data = data
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []

    def input(self, name: str, kind: int, shape: list[int | str]) -> str:
        """Declare an input of the model."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: list[int | str]) -> None:
        """Declare an output of the model."""
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a small initializer to the model file; equal ones are shared."""
        self._initializers.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, value: np.ndarray, **properties: str) -> str:
        """Add a large initializer, written to the data file at once."""
        self._initializers[name] = self._data.add(name, value, properties)
        return name

    def node(
        self,
        op: str,
        inputs: list[str],
        output: str | list[str],
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node, named after its first output, and return that."""
        outputs = [output] if isinstance(output, str) else output
        self._nodes.append(
            helper.make_node(op, inputs, outputs, outputs[0], domain=domain, **attributes)
        )
        return outputs[0]

    def adopt(self, node: NodeProto) -> None:
        """Add an existing node."""
        self._nodes.append(node)

    def model(self, name: str, producer: str) -> ModelProto:
        """Build the finished model."""
        graph = helper.make_graph(
            self._nodes, name, self.inputs, self.outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == CONTRIB for node in self._nodes):
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        return helper.make_model(
            graph, opset_imports=opsets, producer_name=producer, ir_version=_IR_VERSION
        )
