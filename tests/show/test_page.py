"""The page holds everything that a browser needs, places it well, and cannot be broken by what a model says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.converters.show.page import page
from tests.converters.networks import resnet
from tests.converters.programs import PROGRAMS, Program

SHOW = Path(rm.__file__).parent / "converters" / "show"
HEADER = '<ir_version: 10, opset_import: ["": 18]>'


def data_of(text: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def shown(model: Any, **options: Any) -> dict[str, Any]:
    return data_of(page(model, **options))


def by_name(drawing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {box["name"]: box for box in drawing["boxes"]}


def trainable_resnet() -> onnx.ModelProto:
    """ResNet-18 as a file with a training step; its weights are zeros and never computed with."""
    network = resnet(18)
    x = np.zeros((1, 3, 224, 224), np.float32)
    layers = rm.load(network.model())
    return rm.converters.to_training_onnx(rm.graph.SoftmaxCrossEntropy()(layers(x), np.zeros(1, np.int64)))


@pytest.fixture(scope="module")
def resnet_page() -> str:
    return page(trainable_resnet())


def test_every_node_is_a_box_with_its_role():
    model = Program("cnn", "Adam", 18).model()
    drawing = shown(model)["readings"]["training"]
    names = {node.name for node in [*model.graph.node, *model.training_info[0].algorithm.node]}
    assert {box["name"] for box in drawing["boxes"] if box["op"]} == names
    roles = {box["name"]: box["role"] for box in drawing["boxes"]}
    assert roles["conv1/Conv"] == "forward"
    assert roles["conv1/ConvGrad"] == "gradient"
    assert roles["conv1.w/Adam"] == "update"
    assert (roles["x"], roles["y"], roles["output"], roles["loss"]) == ("input", "input", "output", "output")


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_gradients_stand_beside_what_they_are_of(program: Program):
    boxes = by_name(shown(program.model())["readings"]["training"])
    for name, box in boxes.items():
        forward = name.removesuffix("Grad")
        if name.endswith("Grad") and forward in boxes:
            assert (box["row"], box["lane"]) == (boxes[forward]["row"], 1), name
        if box["role"] == "update":
            assert box["lane"] == 2


@pytest.mark.parametrize("program", PROGRAMS[::3], ids=str)
def test_arrows_of_the_forward_pass_go_down_and_those_of_gradients_up(program: Program):
    drawing = shown(program.model())["readings"]["training"]
    for source, target, _, kind, _ in drawing["arrows"]:
        a, b = drawing["boxes"][source], drawing["boxes"][target]
        if kind == "flow" and a["lane"] == b["lane"]:
            assert (a["row"] < b["row"]) == (a["lane"] in (0, 2)), (a["name"], b["name"])


def test_constants_and_weights_are_part_of_who_reads_them():
    text = f"{HEADER} f (float[N, 4] x) => (float[a, b] y) <float[4] w = {{1, 2, 3, 4}}> {{ "
    text += "s = Constant<value_ints = [2, -1]>() h = Mul(x, w) y = Reshape(h, s) }"
    found = shown(onnx.parser.parse_model(text))["readings"]["inference"]
    assert [box["op"] for box in found["boxes"]] == ["", "Mul", "Reshape", ""]
    assert found["tensors"] == {"w": "float32[4] = [1, 2, 3, 4]", "s": "[2, -1]"}
    assert found["boxes"][2]["reads"] == [["data", "h"], ["shape", "s"]]


def test_types_attributes_and_work_are_told():
    found = shown(resnet(18).model(), batch_size=2)
    box = by_name(found["readings"]["inference"])["conv1"]
    assert found["types"]["inference"]["conv1"] == "float32[N, 64, 112, 112]"
    assert box["attributes"] == {"kernel_shape": "[7, 7]", "strides": "[2, 2]", "pads": "[3, 3, 3, 3]"}
    assert box["cost"] == [2 * 118_013_952, 4 * 118_013_952]
    assert found["facts"]["opset"] == "18"


def test_functions_open_and_know_the_types_of_their_calls():
    found = shown(Program("mlp", "Sgd", 18).model())
    boxes = by_name(found["readings"]["training"])
    ((label, name),) = boxes["dense1/GemmGrad"]["bodies"]
    assert label == "body"
    body = found["bodies"][name]
    assert {"MatMul", "Gemm"} & {box["op"] for box in body["boxes"]}
    assert found["types"][name]["A"].startswith("float32[N, ")


def test_types_that_differ_between_calls_are_left_out():
    text = """<ir_version: 10, opset_import: ["": 18, "my": 1]>
        f (float[2] x, float[3] z) => (float[2] y, float[3] w) { y = my.Twice (x) w = my.Twice (z) }
        <domain: "my", opset_import: ["": 18]> Twice (a) => (b) {
            one = Constant <value_float = 1.0> () two = Add (one, one) b = Mul (a, two)
        }"""
    assert shown(onnx.parser.parse_model(text))["types"]["my.Twice"] == {"two": "float32[]"}


def test_bodies_of_control_flow_open():
    step = "b (int64 i, bool k, float[3] s) => (bool l, float[3] t) { l = Identity(k) t = Add(s, x) }"
    text = f"{HEADER} f (float[3] x, int64 n) => (float[3] y) {{ y = Loop<body = {step}>(n, , x) }}"
    found = shown(onnx.parser.parse_model(text))
    loop = next(box for box in found["readings"]["inference"]["boxes"] if box["op"] == "Loop")
    ((label, name),) = loop["bodies"]
    assert label == "body"
    assert [box["op"] for box in found["bodies"][name]["boxes"] if box["op"]] == ["Identity", "Add"]


def test_an_inference_file_has_one_reading():
    assert list(shown(resnet(18).model())["readings"]) == ["inference"]


def test_elements_are_shown_as_they_would_be_exported():
    rm.set_seed(0)
    loss = rm.graph.MeanSquared()(rm.graph.Dense(2)(np.ones((1, 3), np.float32)), np.ones((1, 2), np.float32))
    found = shown(loss)
    assert list(found["readings"]) == ["training", "inference"]
    assert found["name"] == "a GraphElement"


def test_a_broken_graph_is_drawn_without_types():
    text = f"{HEADER} f (float[3] x) => (float[3] y) {{ y = Add(x, nobody) }}"
    found = shown(onnx.parser.parse_model(text))
    assert found["types"] == {}
    assert [box["op"] for box in found["readings"]["inference"]["boxes"]] == ["", "Add", ""]


HOSTILE = "</script><script>alert(1)</script><!--{{script}}{{data}}"


def test_what_a_model_says_cannot_leave_its_place(tmp_path: Path):
    text = f"{HEADER} f (float[3] x) => (float[3] y) {{ y = Relu(x) }}"
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = model.graph.doc_string = HOSTILE
    path = tmp_path / "a&<b>.onnx"
    path.write_bytes(model.SerializeToString())
    written = page(path)
    assert written.count("<script") == 2
    assert "alert(1)</script>" not in written
    assert by_name(data_of(written)["readings"]["inference"])[HOSTILE]["op"] == "Relu"
    assert "<title>" + str(path).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in written


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_no_network():
    written = page(Program("mlp", "Sgd", 18).model())
    tags = Tags()
    tags.feed(written)
    assert not [a for tag, a in tags.found if {"src", "href"} & a.keys()]
    assert {tag for tag, _ in tags.found}.isdisjoint({"link", "iframe", "object", "img"})
    policy = next(a["content"] for tag, a in tags.found if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    code = "".join((SHOW / name).read_text("utf-8") for name in ("layout.js", "paint.js", "viewer.js", "viewer.css"))
    addresses = set(re.findall(r"https?://[^\s`\"'$]+", code))
    assert addresses == {"https://onnx.ai/onnx/operators/onnx__"}  # a link to follow, never fetched
    assert "innerHTML" not in code
    assert not re.search(r"\b(fetch|import|XMLHttpRequest|eval)\b *\(|@import|url\(", code)


def test_size_and_shape_of_a_large_page(resnet_page: str):
    found = data_of(resnet_page)
    training = found["readings"]["training"]
    assert len(resnet_page) < 1_000_000
    assert sum(bool(box["op"]) for box in training["boxes"]) > 180
    widest = max(len(items) for lane in training["lanes"] for _, items in lane)
    assert widest <= 8


CHECK = """
const fs = require("fs"), L = require(process.argv[1]);
const data = JSON.parse(fs.readFileSync(0)), width = (text, bold) => text.length * (bold ? 8 : 6);
const build = (drawing, isOpen) => L.arrange(drawing, width, (box) =>
  isOpen ? (box.bodies || []).map(([, name]) => build(data.bodies[name], false)) : []);
const E = 1e-6;
const apart = (a, b) => a.x + a.w <= b.x + E || b.x + b.w <= a.x + E || a.y + a.h <= b.y + E || b.y + b.h <= a.y + E;
const report = [];
for (const isOpen of [false, true]) {
  for (const [name, drawing] of Object.entries(data.readings)) {
    const start = Date.now(), layout = build(drawing, isOpen);
    let overlaps = 0, outside = 0, loose = 0, bent = 0;
    layout.boxes.forEach((a, i) => {
      layout.boxes.slice(i + 1).forEach((b) => { if (!apart(a, b)) overlaps++; });
      if (a.x < -1e-6 || a.y < -1e-6 || a.x + a.w > layout.w + 1e-6 || a.y + a.h > layout.h + 1e-6) outside++;
      for (const inner of a.inner) if (inner.w > a.w || inner.y + inner.h > a.y + a.h) outside++;
    });
    for (const { points, from, to } of layout.arrows) {
      const at = ([x, y], b) => x >= b.x - E && x <= b.x + b.w + E && y >= b.y - E && y <= b.y + b.h + E;
      if (!at(points[0], from) || !at(points[points.length - 1], to)) loose++;
      if (points.some((p) => p.some((c) => !Number.isFinite(c)))) loose++;
    }
    const lane = layout.boxes.filter((b) => b.box.lane === 0 && b.box.op).map((b) => b.x + b.w / 2);
    report.push({ name, isOpen, overlaps, outside, loose, ms: Date.now() - start, w: layout.w, h: layout.h,
      n: layout.boxes.length, spread: Math.max(...lane) - Math.min(...lane) });
  }
}
console.log(JSON.stringify(report));
"""
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="needs node, which runs the page's layout")
@pytest.mark.parametrize("name", ["resnet", "cnn", "dropout", "inlined"])
def test_no_boxes_overlap_and_arrows_end_at_boxes(name: str, resnet_page: str):
    model = None if name == "resnet" else Program("cnn" if name == "inlined" else name, "Adam", 18).model()
    text = resnet_page if model is None else page(rm.converters.inline(model) if name == "inlined" else model)
    program = [str(NODE), "-e", CHECK, str(SHOW / "layout.js")]
    done = subprocess.run(program, input=json.dumps(data_of(text)), capture_output=True, text=True, check=True)
    for report in json.loads(done.stdout):
        assert (report["overlaps"], report["outside"], report["loose"]) == (0, 0, 0), report
        assert report["n"] > 5
        if name == "resnet" and not report["isOpen"]:
            assert report["spread"] < 600  # the trunk stays upright: 69 rows without a staircase


BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


@pytest.mark.skipif(BROWSER is None, reason="needs a browser that runs without a screen")
def test_a_browser_shows_it(tmp_path: Path):
    path = tmp_path / "page.html"
    rm.converters.write_page(Program("cnn", "Adam", 18).model(), path)
    steer = (
        "let r = window.renom; r.toggleAll(); r.goTo([...r.everyBox()].find(([b]) => b.box.op === 'ConvGrad')[0].path)"
    )
    path.write_text(path.read_text("utf-8") + f"<script>{steer}</script>", "utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert re.search(r'id="legend">.*27 nodes', text)
    assert re.search(r'id="panel"[^>]*>.*<h2>ConvGrad</h2>', text, re.DOTALL)
    assert "float32[4, 2, 3, 3]" in text


def test_write_page_writes_a_file(tmp_path: Path):
    rm.converters.write_page(resnet(18).model(weights=False), tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text("utf-8").startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
