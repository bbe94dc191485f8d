"""``python -m renom_onnx``: the command renom-onnx."""

import sys

from renom_onnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
