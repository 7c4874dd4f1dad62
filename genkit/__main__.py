"""The process `genkit`, also as `python -m genkit`."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code.

    A fifth of a short command would go to the garbage collector, which finds nothing
    in what the imports make: it starts later, and leaves what is there at the end.
    """
    gc.set_threshold(200_000, 20, 100)
    from genkit.cli import entry

    code = entry()
    if not {"onnx", "triton"} & sys.modules.keys():  # whose bindings report at exit what was not collected
        gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
