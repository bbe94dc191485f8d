"""``python -m renom_onnx``: the command ``renom-onnx``, also where scripts of packages are not on the path."""

import sys

from renom_onnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
