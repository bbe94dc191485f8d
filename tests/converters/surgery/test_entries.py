"""`append_training`: the steps of two players in one file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters import append_training, convert_opset, lint, to_training_onnx
from renom_onnx.runtime import TrainingSession
from tests.converters.programs import Program, features
from tests.converters.surgery.alike import adam

G = rm.graph


class Players(G.Model):
    """A generator and a discriminator, whose weights are called after them."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = G.Sequential([G.Dense(8), G.Tanh(), G.Dense(2)])
        self.discriminator = G.Sequential([G.Dense(8), G.Tanh(), G.Dense(1)])

    def forward(self, noise: G.GraphElement, real: G.GraphElement) -> tuple[G.GraphElement, ...]:
        image = self.generator(noise)
        return image, self.discriminator(image), self.discriminator(real)


def players(*, in_graph: bool = True) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return the discriminator's step and the generator's, of one graph that holds the weights of both, or one's."""
    rm.set_seed(0)
    model = Players()
    noise, real = (G.static(features(rows, size=size)[:8], is_batch=True) for rows, size in ((8, 3), (9, 2)))
    noise.output.node.name, real.output.node.name = "noise", "real"
    image, score, other = model(noise, real)
    outputs = {"score": score} if in_graph else {"image": image}
    fooled = G.ConstantLoss()(G.softplus(-score))
    caught = G.ConstantLoss()(G.softplus(score)) + G.ConstantLoss()(G.softplus(-other))
    steps = []
    for trained, loss in ((model.discriminator, caught), (model.generator, fooled)):
        for layer in (model.generator, model.discriminator):
            for parameter in layer.parameters():
                parameter.trainable = layer is trained
        steps.append(to_training_onnx(loss, G.Adam(0.01), outputs=outputs))
    return steps[0], steps[1]


def test_two_players_take_turns_in_one_file_as_in_two():
    files = players()
    both = append_training(*files, prefix="generator/")
    assert lint(both) == []
    assert [info.algorithm.name for info in both.training_info] == ["training", "generator/training"]
    assert both.graph == files[0].graph
    names = {0: "training", 1: "generator/training"}
    apart = [TrainingSession(model, "cpu", threads=1) for model in files]
    together = [TrainingSession(both, "cpu", training_info=name, threads=1) for name in names.values()]
    noise, real = features(8, size=3), features(9, size=2)[:8]
    for step in range(6):
        player = step % 2
        batch = {"noise": noise, "real": real} if player == 0 else {"noise": noise}
        assert float(together[player].step(batch)) == pytest.approx(float(apart[player].step(batch)), rel=1e-5)
        together[1 - player].copy_weights(together[player])
        for name, value in apart[player].parameters.items():
            # a file of one step takes the other's weights for constants: it is written anew
            tensors = {t.name: t for t in files[1 - player].graph.initializer}
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
        states = {n: apart[1 - player].read(n) for n in apart[1 - player]._step.bindings}
        apart[1 - player] = TrainingSession(files[1 - player], "cpu", threads=1)
        for name, value in states.items():
            apart[1 - player].write(name, value)
    for player in (0, 1):
        for name, value in apart[player].parameters.items():
            np.testing.assert_allclose(together[player].read(name), value, rtol=1e-4, atol=1e-6)


def test_what_the_second_step_declares_gets_the_prefix():
    both = append_training(*players(), prefix="generator/")
    first, second = both.training_info
    assert [value.name for value in first.algorithm.input] == ["real", "learning_rate"]
    assert [value.name for value in second.algorithm.input] == ["generator/learning_rate"]
    keys = {binding.key for binding in second.update_binding}
    assert "generator/step" in keys and "generator.dense1.w" in keys
    assert second.initialization_binding[0].key == "generator/step"


def test_states_of_other_names_need_no_prefix():
    first, second = players()
    renamed = append_training(first, second, prefix="generator/")
    del renamed.training_info[0]
    assert lint(append_training(first, renamed)) == []


def test_another_opset_is_converted():
    first, second = players()
    both = append_training(first, convert_opset(second, 21), prefix="generator/")
    assert {o.domain: o.version for o in both.opset_import}[""] == 21
    assert lint(both) == []


# Errors


def message(*models: onnx.ModelProto, prefix: str = "") -> str:
    with pytest.raises(rm.ConversionError) as error:
        append_training(*models, prefix=prefix)
    return str(error.value)


def test_a_state_that_two_steps_change_is_an_error():
    assert message(*players()) == (
        "append_training: a weight or state must be changed by one step, got 'step', which two change. Give a prefix."
    )


def test_a_weight_that_two_steps_change_is_an_error():
    assert message(adam(), adam(), prefix="again/") == (
        "append_training: a weight or state must be changed by one step, got 'dense1.w', which two change. Freeze it "
        "in one of them."
    )


def test_a_weight_that_steps_share_outside_of_the_graph_is_an_error():
    assert message(*players(in_graph=False), prefix="generator/") == (
        "append_training: a weight that one step trains and another reads must be in the graph, got "
        "'discriminator.dense1.b', which is not. Export both with an output that depends on it."
    )


def test_another_graph_is_an_error():
    assert message(adam(), Program("cnn", "Sgd", 18).model()) == (
        "append_training: the models must have the same graph, got another node: 'dense1/Gemm' and 'conv1/Conv'. "
        "Export both with the same outputs."
    )
    longer = adam()
    longer.graph.output.append(onnx.helper.make_tensor_value_info("relu1/Relu", onnx.TensorProto.FLOAT, ["N", 8]))
    assert message(adam(), longer) == (
        "append_training: the models must have the same graph, got 1 and 2 outputs. Export both with the same outputs."
    )


def test_another_version_of_a_domain_is_an_error():
    models = players()
    for model, version in zip(models, (3, 4), strict=True):
        model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", version))
    assert message(*models, prefix="generator/") == (
        "append_training: the models must use the same version of domain ai.onnx.ml, got 3 and 4."
    )
