"""The command `bertonnx`: runs the command line and turns errors into exit codes."""

from __future__ import annotations

import os
import sys

from bertonnx.errors import BertonnxError

__all__ = ["main"]


def main() -> None:
    """Run the command line with `sys.argv`; ends the process with the exit codes of the README."""
    from bertonnx.cli import app

    try:
        app()
    except BertonnxError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone (bertonnx run ... | head). Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
