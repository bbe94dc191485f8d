"""What ReNom 3.0 has, as data: names in both spellings, arguments with their defaults, and where and why ours differ.

`test_names.py` reads it. A row says for a name of ``rm.graph``: its other spellings; ReNom's arguments and defaults;
what must be given here in any case; which arguments differ, and why; words of the formula and of the shapes that its
documentation has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A name of ReNom 3.0; see the module."""

    arguments: Mapping[str, Any]
    formula: str
    shapes: str
    others: tuple[str, ...] = ()
    needed: Mapping[str, Any] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


SETTINGS = {"parameter_decay": None, "optimizer": None, "activation": None}
"""Of every layer with parameters. A layer without has nothing to decay or update; call an activation instead."""
WEIGHTS = {**SETTINGS, "weight_decay": None}
REQUIRED = "required: a layer of one unit that nobody asked for is a mistake"
SAME = "same shape"
ELEMENTWISE = "lement by element"

LAYERS: dict[str, Row] = {
    "Dense": Row(
        {"output_size": 1, "initializer": None, "ignore_bias": False, **SETTINGS},
        "y = x w + b", "(N, ..., units)", ("DenseGraphElement",), {"output_size": 3}, {"output_size": REQUIRED},
    ),
    "Bias": Row(SETTINGS, "y = x + b", SAME, ("BiasGraphElement",)),
    "Conv": Row(
        {"channel": 3, "kernel": 3, "padding": 0, "stride": 1, "dilation": 1, "groups": 1, "initializer": None,
         "ignore_bias": False, **WEIGHTS},
        "y[n, m, p] = b[m] + sum", "(N, M, *O)", ("ConvolutionalGraphElement",),
    ),
    "Deconv": Row(
        {"channel": 3, "kernel": 3, "padding": 0, "stride": 1, "initializer": None, "ignore_bias": False, **WEIGHTS},
        "y[n, m, p * stride + k * dilation - padding] +=", "(N, M, *O)", ("DeconvolutionalGraphElement",),
    ),
    "MaxPool": Row({"kernel": 3, "padding": 0, "stride": 1}, "largest", "(N, C, *O)", ("MaxPoolGraphElement",)),
    "AvgPool": Row({"kernel": 3, "padding": 0, "stride": 1}, "mean", "(N, C, *O)", ("AvgPoolGraphElement",)),
    "UnPool": Row({"prev_pool": ...}, "where a MaxPool found its maxima", "(N, C, *S)", ("MaxUnPoolGraphElement",)),
    "RoiPool": Row({"outw": 7, "outh": 7, "spatial_scale": 1 / 16}, "ceil((i + 1) h / n)", "(R, C, outh, outw)"),
    "BatchNormalize": Row(
        {"momentum": 0.99, "epsilon": 1e-5, "axis": None, "initializer": None, "ignore_bias": False, **WEIGHTS},
        "y = w (x - mean) / sqrt(var + epsilon) + b", SAME,
        ("BatchNormalizeElement", "BatchNormalizeGraphElement"),
        differs={
            "momentum": "0.9, the field's: ReNom's 0.99 weighted the new batch, ONNX's and this one the old statistics",
            "axis": "1, one mean for each channel, as the operator and everybody has it",
        },
    ),
    "LayerNormalize": Row(
        {"gain": 0.1, **SETTINGS}, "y = g (x - mean) / sqrt(var + epsilon) + b", SAME, ("LayerNormGraphElement",),
        differs={"gain": "1, the field's: ReNom's gain was never trained"},
    ),
    "WeightNormalize": Row(
        {"output_size": 1, "gain": 0.1, "initializer": None, "ignore_bias": None, **WEIGHTS},
        "v = g w / norm(w)", "(N, ..., units)", ("WeightNormGraphElement",), {"output_size": 3},
        {"output_size": REQUIRED, "ignore_bias": "True: there is no bias unless it is asked for, as in ReNom"},
    ),
    "L2Norm": Row(
        {"scale": 20, **WEIGHTS}, "y = w x / (sqrt(sum over channels of x^2) + epsilon)", SAME, ("L2NormGraphElement",)
    ),
    "Lrn": Row({"n": 5, "k": 2, "a": 1e-4, "b": 0.75}, "y = x (k + a sum of x^2", SAME, ("LrnGraphElement",)),
    "Dropout": Row({"dropout_rate": 0.5, "axis": None}, "x / (1 - dropout_rate)", SAME, ("DropoutGraphElement",)),
    "Embedding": Row(
        {"output_size": ..., **WEIGHTS}, "y = w[x]", "(N, ..., units)", ("EmbeddingGraphElement",),
        {"output_size": 3, "vocabulary": 5},
    ),
    "Lstm": Row(
        {"output_size": 3, "initializer": None, "ignore_bias": False, **WEIGHTS},
        "c = f c + i tanh", "(N, T, D H)", ("LstmGraphElement",),
    ),
    "PeepholeLstm": Row(
        {"output_size": 3, "initializer": None, "ignore_bias": False, **WEIGHTS}, "i and f see the old c", "(N, T, D H)"
    ),
    "Gru": Row(
        {"output_size": 3, "initializer": None, "ignore_bias": False, **WEIGHTS},
        "h = (1 - z) tanh", "(N, T, D H)", ("GruGraphElement",),
    ),
    "Sequential": Row(SETTINGS, "one after the other", "('N', 2)", ("SequentialSubGraph",), {"layers": []}),
}  # fmt: skip

ACTIVATIONS: dict[str, Row] = {
    "Relu": Row({}, "max(x, 0)", ELEMENTWISE, ("ReluGraphElement",)),
    "LeakyRelu": Row({"slope": 0.01}, "x where x > 0, else slope x", ELEMENTWISE, ("LeakyReluGraphElement",)),
    "Elu": Row(
        {"alpha": 0.01}, "alpha (e^x - 1)", ELEMENTWISE, ("EluGraphElement",), differs={"alpha": "1, the paper's"}
    ),
    "Selu": Row({}, "gamma alpha (e^x - 1)", ELEMENTWISE, ("SeluGraphElement",)),
    "Sigmoid": Row({}, "1 / (1 + e^-x)", ELEMENTWISE, ("SigmoidGraphElement",)),
    "Tanh": Row({}, "(e^x - e^-x) / (e^x + e^-x)", ELEMENTWISE, ("TanhGraphElement",)),
    "Softplus": Row({}, "log(1 + e^x)", ELEMENTWISE, ("SoftplusGraphElement",)),
    "Softmax": Row({}, "e^x / sum(e^x)", SAME, ("SoftmaxGraphElement",)),
    "Maxout": Row({"slice_size": 1}, "largest of every", "(N, ceil(D / slice_size), *S)", ("MaxoutGraphElement",)),
}

LOSSES: dict[str, Row] = {
    "ConstantLoss": Row({"reduction": "sum"}, "sum of the elements", "Called with x", ("ConstantLossElement",)),
    "MeanSquared": Row(
        {"reduction": "mean"}, "sum((x - t)^2) / 2", "(N, ...)", ("MeanSquaredGraphElement", "MeanSquaredElement")
    ),
    "CrossEntropy": Row(
        {"reduction": "mean"}, "-sum(t log(x + 1e-8))", "(N, ...)", ("CrossEntropyGraphElement", "CrossEntropyElement")
    ),
    "SoftmaxCrossEntropy": Row(
        {"reduction": "mean"}, "-log(softmax(x)[t])", "(N, K)",
        ("SoftmaxCrossEntropyGraphElement", "SoftmaxCrossEntropyElement"),
    ),
    "SigmoidCrossEntropy": Row(
        {"reduction": "mean"}, "-sum(t log z + (1 - t) log(1 - z))", "(N, ...)",
        ("SigmoidCrossEntropyGraphElement", "SigmoidCrossEntropyElement"),
    ),
    "SmoothL1": Row(
        {"delta": 1.0, "reduction": "mean"}, "d^2 / 2 where |d| < delta", "(N, ...)",
        ("SmoothedL1GraphElement", "SmoothL1Element"),
    ),
}  # fmt: skip

OPTIMIZERS: dict[str, Row] = {
    "Sgd": Row(
        {"learning_rate": 0.01, "momentum": 0.4}, "v' = momentum * v + g", "p'",
        differs={"momentum": "0, PyTorch's; sgd_update() has the seed's 0.4"},
    ),
    "Adagrad": Row(
        {"learning_rate": 0.01, "epsilon": 1e-8}, "g / (sqrt(r') + epsilon)", "p'", ("adagrad_update",)
    ),
    "Adadelta": Row(
        {"dr": 0.95, "epsilon": 1e-8}, "sqrt(x + epsilon) / sqrt(e' + epsilon)", "p'", ("adadelta_update",)
    ),
    "Adamax": Row(
        {"alpha": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}, "max(beta2 u, |g| + epsilon)", "p'",
        ("adamax_update",),
    ),
    "Rmsprop": Row({"lr": 0.001, "g": 0.9, "epsilon": 1e-8}, "g / (sqrt(r') + epsilon)", "p'", ("rmsprop_update",)),
    "Adam": Row(
        {"alpha": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}, "m' / (sqrt(v'", "p'", ("adam_update",)
    ),
    "L2": Row({"wd": 0.05}, "g + weight_decay * p", ""),
    "L1": Row({"wd": 0.05}, "g + weight_decay * sign(p)", ""),
}  # fmt: skip

BROADCAST = "broadcast"
OPERATIONS: dict[str, Row] = {
    "Add": Row({}, "a + b", BROADCAST, ("AddElement",)),
    "Sub": Row({}, "a - b", BROADCAST),
    "Mul": Row({}, "a * b", BROADCAST, ("MulElement",)),
    "Div": Row({}, "a / b", BROADCAST),
    "Pow": Row({}, "to the power of b", BROADCAST),
    "Exp": Row({}, "to the power of x", ELEMENTWISE),
    "Log": Row({}, "logarithm", ELEMENTWISE),
    "Sqrt": Row({}, "quare root", ELEMENTWISE),
    "Square": Row({}, "x * x", ELEMENTWISE),
    "Sum": Row({"axis": None, "keepdims": False}, "Sum over axes", "keepdims"),
    "Mean": Row({"axis": None, "keepdims": False}, "Mean over axes", "keepdims"),
    "Max": Row({"axis": None, "keepdims": False}, "Largest over axes", "keepdims"),
    "Min": Row({"axis": None, "keepdims": False}, "Smallest over axes", "keepdims"),
    "Clip": Row(
        {"floor": ..., "ceil": ...}, "at least `floor` and at most `ceil`", ELEMENTWISE, ("ClipElement",),
        {"floor": 0, "ceil": 1},
    ),
    "Reshape": Row({"shape": ...}, "new shape", "-1 is what is left over", ("ReshapeElement",), {"shape": [2]}),
    "GetItem": Row({"index": ...}, "x[index]", "get_item", ("GetItemElement",), {"index": 0}),
    "Concatenate": Row({"axis": 0}, "Join", "along an axis"),
}  # fmt: skip

DATA: dict[str, Row] = {
    "StaticVariable": Row({"value": ..., "num_gpus": None}, "array", "dtype is kept", (), {"value": [1.0]}),
    "Placeholder": Row({"shape": ..., "num_gpus": 1}, "fed later", "batch first", (), {"shape": (2, 3)}),
    "DataInput": Row({"inputs": ..., "num_gpus": 1}, "rows", "as many rows", (), {"inputs": [[1.0], [2.0]]}),
    "DistributorElement": Row(
        {"data": ..., "labels": ..., "batch_size": 64, "num_gpus": 1, "shuffle": True}, "batches", "rows first",
        ("Distro",), {"data": [[1.0]], "labels": [0]},
    ),
}  # fmt: skip

ROWS = {**LAYERS, **ACTIVATIONS, **LOSSES, **OPTIMIZERS, **OPERATIONS, **DATA}

FUNCTIONS: dict[str, dict[str, Any]] = {
    "relu": {}, "elu": {"alpha": 0.01}, "selu": {}, "leaky_relu": {"slope": 0.01}, "tanh": {}, "sigmoid": {},
    "softmax": {}, "softplus": {}, "maxout": {"slice_size": 1},
    "mean_squared": {"reduction": "mean"}, "cross_entropy": {"reduction": "mean"},
    "softmax_cross_entropy": {"reduction": "mean"}, "sigmoid_cross_entropy": {"reduction": "mean"},
    "smooth_l1": {"delta": 1.0, "reduction": "mean"},
    "sum": {"axis": None, "keepdims": False}, "mean": {"axis": None, "keepdims": False},
    "max": {"axis": None, "keepdims": False}, "min": {"axis": None, "keepdims": False},
    "exp": {}, "log": {}, "sqrt": {}, "square": {}, "clip": {"floor": ..., "ceil": ...}, "reshape": {"shape": ...},
    "concatenate": {"axis": 0}, "rand_normal": {"shape": ..., "mean": 0, "std": 1}, "rand_uniform": {"shape": ...},
    "Activation": {}, "sgd_update": {"learning_rate": 0.01, "momentum": 0.4},
}  # fmt: skip
"""Functions, with the arguments after the operands; `...` has no default."""
FUNCTIONS_DIFFER = {("elu", "alpha"): "1, the paper's"}

INITIALIZERS: dict[str, dict[str, Any]] = {
    "Constant": {"value": ...}, "GlorotUniform": {"gain": 1.0}, "GlorotNormal": {"gain": 1.0},
    "HeNormal": {"gain": 1.0}, "HeUniform": {"gain": 1.0}, "Gaussian": {"mean": 0.0, "std": 0.1, "gain": 1.0},
    "Uniform": {"min": -1.0, "max": 1.0, "gain": 1.0}, "Orthogonal": {"gain": 1.0},
}  # fmt: skip

RELEASE = words("""
Activation Adadelta Adagrad Adam Adamax Add AvgPool BatchNormalize Bias Clip ClipElement Concatenate ConstantLoss
ConstantLossElement Conv CrossEntropy CrossEntropyElement DataInput Deconv Dense Div Dropout Elu Embedding Exp GetItem
Gru L1 L2 L2Norm LayerNormalize LeakyRelu Log Lrn Lstm Max MaxPool Maxout Mean MeanSquared MeanSquaredElement Min Mul
PeepholeLstm Placeholder Pow Relu Reshape Rmsprop RoiPool Selu Sequential Sgd Sigmoid SigmoidCrossEntropy SmoothL1
SmoothL1Element Softmax SoftmaxCrossEntropy SoftmaxCrossEntropyElement Softplus Sqrt Square StaticVariable Sub Sum Tanh
UnPool WeightNormalize relu elu selu leaky_relu tanh sigmoid softmax softplus maxout mean_squared cross_entropy
softmax_cross_entropy sigmoid_cross_entropy smooth_l1 sum mean max min exp log sqrt square clip reshape concatenate
rand_normal core basics function loss utils activation train distribution
""")
"""Every name of the release's ``rm.graph``, as its interpreter lists them."""
CORE = words("UserGraph UserLossGraph GraphMultiStorage operational_element operation GraphFactory graph_variable")
CORE += words("learnable_graph_element loss_graph_element multi_gpu_variable with_gradient_clipping")
TOP = words("graph cuda precision set_cuda_active is_cuda_active has_cuda get_device_count set_renom_seed show_config")
TOP += words("console_scripts logging_level auxiliary __version__")
CUDA = words("""
set_cuda_active is_cuda_active has_cuda get_device_count use_cuda disable_cuda use_device curand_set_seed
curand_generator release_mem_pool ShareInitialization RenomHandler RenomHandlers DeviceCommunicator GPUValue
cuGetDeviceCount cuDeviceSynchronize cuGetMemInfo
""")
SEEDS_V2 = ["Dense", "sum", "Sgd", "NdarrayDistributor", "Node", "set_renom_seed", "utility.initializer.Constant"]

METHODS = {
    "element": words("""
        sum mean max min exp log sqrt square clip reshape as_ndarray forward backward update get_gradient print_tree
        detach disconnect feed set_updatable set_optimizer set_regularizer set_inference set_all_inference get_executor
        getInferenceExecutor getTrainingExecutor output name depth
"""),
    "layer": words("""
        params set_updatable set_optimizers set_optimizer set_regularizer set_decays set_inference inference no_updates
        save load
"""),
    "parameter": words("as_ndarray output set_value set_weight_decay set_optimizer allow_update"),
    "executor": words("execute step register_event unregister_events"),
    "distributor": words("reset getOutputGraphs get_output_graphs"),
    "data input": words("index shuffle batch get_output_graphs reset"),
}

OUT = {
    "graph.basics": "how the original was laid out in files",
    "graph.function": "how the original was laid out in files",
    "graph.loss": "how the original was laid out in files",
    "graph.utils": "how the original was laid out in files",
    "graph.activation": "how the original was laid out in files",
    "graph.distribution": "how the original was laid out in files",
    "core.GraphMultiStorage": "storage on several devices: arrays are NumPy's here, sessions hold them on devices",
    "core.multi_gpu_variable": "the same under its older name",
    "core.UserLossGraph": "a loss is a Layer here, see `Loss`",
    "core.loss_graph_element": "the same under its older name",
    "core.operational_element": "Python code that computes: an element is one operator of ONNX here",
    "core.operation": "the same: a Layer of operators takes its place, and a gradient rule may be registered",
    "rm.console_scripts": "the command is renom-onnx",
    "rm.logging_level": "onnxruntime runs the graph as a whole: nothing is printed or tested between two operators",
    "rm.auxiliary": "it downloads data sets and searches hyperparameters, which other libraries do",
    "cuda.curand_generator": "random numbers are computed in the graph, from the seed",
    "cuda.release_mem_pool": "onnxruntime gives memory back with the session",
    "cuda.ShareInitialization": "parameters are drawn once, whatever number of devices trains them",
    "cuda.RenomHandler": "handles of kernels, which onnxruntime owns",
    "cuda.RenomHandlers": "handles of kernels, which onnxruntime owns",
    "cuda.DeviceCommunicator": "several devices: get_training_executor(devices=[...])",
    "cuda.GPUValue": "memory of a device, which sessions own",
    "cuda.cuDeviceSynchronize": "a loss waits for its device when somebody looks at it",
    "cuda.cuGetMemInfo": "the driver's own tools say it",
    "Rmsprop.running_average": "the release ignores it",
    "StaticVariable.keyword": "a label for the tree of the original's distributors",
    "ConstantLossElement.previous_element": "the name is the seed's factory; the release's element class is internal",
    "DistributorElement.change_data": "feed another distributor to a placeholder",
    "DistributorElement.change_labels": "feed another distributor to a placeholder",
    "Distro.test_data, test_labels, test_split, keyword, drop_remainder":
        "arguments of two months before the release: executors take validation data",
    "rand_normal.num_gpus": "devices are named where a model runs",
    "Lstm.reset": "a call is a whole sequence here: no state is left to reset",
    "UserGraph.set_gradient_clipping": "a switch for the process: with_gradient_clipping is for a block",
    "GraphFactory.load_v2_params, HDF5 files": "weights are saved to .npz, which needs no other library",
}  # fmt: skip
"""What is not here, and why."""
