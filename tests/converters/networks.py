"""Networks of the literature as ONNX graphs, with the shapes of their papers and of torchvision's code.

`resnet(50).model()` has zeros for weights; `resnet(50).model(weights=False)` reads them as inputs, which costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper


@dataclass
class Network:
    """A graph under construction; each method adds a node and returns the name of its output."""

    name: str
    channels: dict[str, int] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.channels[name] = self.channels.get(inputs[0], 0)
        return name

    def weight(self, name: str, *shape: int) -> str:
        self.shapes[name] = shape
        return name

    def conv(self, x: str, name: str, m: int, kernel: int, stride: int = 1, pad: int = 0, bias: bool = False) -> str:
        w = self.weight(f"{name}.weight", m, self.channels[x], kernel, kernel)
        inputs = [x, w, *([self.weight(f"{name}.bias", m)] if bias else [])]
        attributes = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
        y = self.add("Conv", inputs, name, **attributes)
        self.channels[y] = m
        return y

    def batch_norm(self, x: str, name: str) -> str:
        keys = ("weight", "bias", "running_mean", "running_var")
        return self.add("BatchNormalization", [x, *(self.weight(f"{name}.{k}", self.channels[x]) for k in keys)], name)

    def gemm(self, x: str, name: str, n_inputs: int, n_outputs: int) -> str:
        w, b = self.weight(f"{name}.weight", n_outputs, n_inputs), self.weight(f"{name}.bias", n_outputs)
        return self.add("Gemm", [x, w, b], name, transB=1)

    def relu(self, x: str) -> str:
        return self.add("Relu", [x], f"{x}.relu")

    def max_pool(self, x: str, name: str, kernel: int, stride: int, pad: int = 0) -> str:
        return self.add("MaxPool", [x], name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def model(self, *, weights: bool = True, opset: int = 18, seed: int | None = None) -> onnx.ModelProto:
        """Return the model; its weights are zeros, drawn from a seed, or inputs."""
        kind = onnx.TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("x", kind, ["N", 3, 224, 224])]
        initializers = []
        generator = np.random.default_rng(seed)
        for name, shape in self.shapes.items():
            if not weights:
                inputs.append(helper.make_tensor_value_info(name, kind, shape))
                continue
            array = np.zeros(shape) if seed is None else generator.normal(0, 0.05, shape)
            array = np.ones(shape) if name.endswith("running_var") else array
            initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        outputs = [helper.make_tensor_value_info(self.nodes[-1].output[0], kind, ["N", 1000])]
        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def resnet(depth: int) -> Network:
    """He et al. 2015, arXiv:1512.03385, with the stride in the 3 x 3 convolution of a block, as torchvision has it."""
    n = Network(f"resnet{depth}", {"x": 3})
    blocks, widens = {18: ((2, 2, 2, 2), 1), 34: ((3, 4, 6, 3), 1), 50: ((3, 4, 6, 3), 4)}[depth]
    y = n.max_pool(n.relu(n.batch_norm(n.conv("x", "conv1", 64, 7, 2, 3), "bn1")), "maxpool", 3, 2, 1)
    for stage, n_blocks in enumerate(blocks):
        width = 64 << stage
        for i in range(n_blocks):
            name, stride, shortcut = f"layer{stage + 1}.{i}", 2 if stage and not i else 1, y
            plan = [(3, stride, 1), (3, 1, 1)] if widens == 1 else [(1, 1, 0), (3, stride, 1), (1, 1, 0)]
            for j, (kernel, step, pad) in enumerate(plan, 1):
                m = width * widens if j == len(plan) else width
                y = n.batch_norm(n.conv(y, f"{name}.conv{j}", m, kernel, step, pad), f"{name}.bn{j}")
                y = n.relu(y) if j < len(plan) else y
            if n.channels[shortcut] != n.channels[y]:
                projected = n.conv(shortcut, f"{name}.downsample.0", width * widens, 1, stride)
                shortcut = n.batch_norm(projected, f"{name}.downsample.1")
            y = n.relu(n.add("Add", [y, shortcut], f"{name}.add"))
    y = n.add("Flatten", [n.add("GlobalAveragePool", [y], "avgpool")], "flatten")
    n.gemm(y, "fc", 512 * widens, 1000)
    return n


def vgg(depth: int) -> Network:
    """Simonyan & Zisserman 2014, arXiv:1409.1556."""
    n = Network(f"vgg{depth}", {"x": 3})
    repeats = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}[depth]
    y, count = "x", 0
    for stage, n_convs in enumerate(repeats):
        for _ in range(n_convs):
            y = n.relu(n.conv(y, f"features.{count}", min(64 << stage, 512), 3, 1, 1, bias=True))
            count += 1
        y = n.max_pool(y, f"pool{stage}", 2, 2)
    y = n.add("Flatten", [y], "flatten")
    y = n.relu(n.gemm(y, "classifier.0", 512 * 49, 4096))
    y = n.relu(n.gemm(y, "classifier.3", 4096, 4096))
    n.gemm(y, "classifier.6", 4096, 1000)
    return n
