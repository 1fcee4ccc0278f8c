"""Lines for the operator, on standard error."""

import os


def log(message: str) -> None:
    try:
        os.write(2, f"baton-backend: {message}\n".encode())
    except OSError:
        pass  # Whatever read it is gone, such as the broker that has started this process: that must not keep it from draining.
