"""Lines for the operator, on standard error."""

import os


def log(message: str) -> None:
    os.write(2, f"baton-backend: {message}\n".encode())
