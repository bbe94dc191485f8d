"""Operators without a gradient, and why. The reason completes "ArgMax has no gradient (it is ...)"."""

from renom_onnx.gradients.registry import not_differentiable, refuse

not_differentiable("a comparison", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
not_differentiable("a test of each element", "IsInf", "IsNaN")
not_differentiable("logical", "And", "Not", "Or", "Xor")
not_differentiable("an operation on bits", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor")
not_differentiable("piecewise constant", "Ceil", "Floor", "Hardmax", "Round", "Sign")
not_differentiable("an index, which is piecewise constant", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero")
not_differentiable("a function of shapes only", "ConstantOfShape", "EyeLike", "Shape", "Size")
not_differentiable("a constant", "BlackmanWindow", "Constant", "HammingWindow", "HannWindow", "MelWeightMatrix")
not_differentiable("piecewise constant", "Binarizer", "TreeEnsemble", domain="ai.onnx.ml")
not_differentiable(
    "random", "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"
)
not_differentiable(
    "an integer operation",
    "ConvInteger",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
)
not_differentiable(
    "an operation on text or encoded data",
    "ImageDecoder",
    "RegexFullMatch",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
)
not_differentiable("a question about its operand's type", "OptionalHasElement", "SequenceLength")

refuse("it runs a body that no gradient passes yet; unroll it", "FlexAttention", domain="ai.onnx.preview")
refuse("it handles optional values, through which no gradient passes yet", "Optional", "OptionalGetElement")
