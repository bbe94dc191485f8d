project = "renom_onnx"
author = "renom_onnx developers"
copyright = "2026, renom_onnx developers"

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_title = "renom_onnx"
