"""Builds MiniLM's network as an ONNX graph from its weights alone, without torch.

all-MiniLM-L6-v2 is a BERT encoder of 6 layers, 384 columns and 12 heads; a text's vector is the mean of its
tokens' vectors, scaled to length 1. Pooling and scaling are part of the graph:

    input_ids, attention_mask  [batch, tokens] int64   ->   embedding  [batch, 384] float32

``quantised`` then turns weights to int8, one scale per output column, and activations at run time, one scale
per call. Weights use 7 of the 8 bits: processors without VNNI add pairs of products in 16 bits, which full-range
weights would overflow. Against float32 the vectors keep a cosine of 0.99.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

LAYERS: Final = 6
HEADS: Final = 12
DIMENSION: Final = 384
_OPSET: Final = 20  # the first with Gelu; LayerNormalization came with 17
_IR_VERSION: Final = 10
_MASKED: Final = -1e4  # added to the attention that falls on padding
_EPSILON: Final = 1e-12  # of BERT's layer norms

Weights = Mapping[str, NDArray[Any]]


def network(weights: Weights) -> ModelProto:
    """The network in float32. ``weights`` are named as in the published safetensors file."""
    net = _Net(weights)
    hidden = _embeddings(net)
    mask = net.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    bias = _attention_bias(net, mask)
    for layer in range(LAYERS):
        hidden = _layer(net, f"encoder.layer.{layer}", hidden, bias)
    net.op("LpNormalization", _mean(net, hidden, mask), output="embedding", axis=-1, p=2)
    sizes = ["batch", "tokens"]
    graph = helper.make_graph(
        net.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info(name, TensorProto.INT64, sizes) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSION])],
        net.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    checker.check_model(model)
    return model


def quantised(model: ModelProto, into: Path) -> None:
    """Write ``model`` to ``into`` with int8 weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _without_advice():
        quantize_dynamic(
            model,
            into,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


class _Net:
    """Nodes and constants under way. Every method returns the name of what it adds."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: object, dtype: type[np.generic] | None = None) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def scalar(self, value: float) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(self.weights[name])

    def linear(self, name: str, hidden: str) -> str:
        turned = self.constant(self.weights[f"{name}.weight"].T)  # stored as [out, in]
        return self.op("Add", self.op("MatMul", hidden, turned), self.weight(f"{name}.bias"))

    def norm(self, name: str, hidden: str) -> str:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", hidden, scale, shift, axis=-1, epsilon=_EPSILON)


def _embeddings(net: _Net) -> str:
    words = net.op("Gather", net.weight("embeddings.word_embeddings.weight"), "input_ids")
    # One text at a time, so every token is of type 0: its row is added to the positions once and for all.
    places = (
        net.weights["embeddings.position_embeddings.weight"] + net.weights["embeddings.token_type_embeddings.weight"][0]
    )
    length = net.op("Shape", "input_ids", start=1, end=2)
    here = net.op("Slice", net.constant(places), net.constant([0], np.int64), length)
    return net.norm("embeddings.LayerNorm", net.op("Add", words, here))


def _attention_bias(net: _Net, mask: str) -> str:
    wide = net.op("Unsqueeze", mask, net.constant([1, 2], np.int64))
    return net.op("Mul", net.op("Sub", net.scalar(1.0), wide), net.scalar(_MASKED))


def _layer(net: _Net, name: str, hidden: str, bias: str) -> str:
    width = DIMENSION // HEADS
    apart = net.constant([0, 0, HEADS, width], np.int64)
    together = net.constant([0, 0, DIMENSION], np.int64)

    def heads(which: str, order: list[int]) -> str:
        return net.op(
            "Transpose", net.op("Reshape", net.linear(f"{name}.attention.self.{which}", hidden), apart), perm=order
        )

    query, key, value = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]), heads("value", [0, 2, 1, 3])
    scores = net.op("MatMul", net.op("Mul", query, net.scalar(width**-0.5)), key)
    attention = net.op("Softmax", net.op("Add", scores, bias), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", attention, value), perm=[0, 2, 1, 3])
    attended = net.linear(f"{name}.attention.output.dense", net.op("Reshape", mixed, together))
    hidden = net.norm(f"{name}.attention.output.LayerNorm", net.op("Add", attended, hidden))
    inner = net.op("Gelu", net.linear(f"{name}.intermediate.dense", hidden))
    return net.norm(f"{name}.output.LayerNorm", net.op("Add", net.linear(f"{name}.output.dense", inner), hidden))


def _mean(net: _Net, hidden: str, mask: str) -> str:
    """The mean over the tokens that are no padding."""
    kept = net.op("Mul", hidden, net.op("Unsqueeze", mask, net.constant([2], np.int64)))
    total = net.op("ReduceSum", kept, net.constant([1], np.int64), keepdims=0)
    return net.op("Div", total, net.op("ReduceSum", mask, net.constant([1], np.int64), keepdims=1))


@contextmanager
def _without_advice() -> Iterator[None]:
    """onnxruntime advises to run its own pre-processing first; this graph has nothing left to fold."""
    root = logging.getLogger()

    def other(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)
