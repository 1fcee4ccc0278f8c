"""A Baton backend for asyncio, written from docs/reference/protocol.md. It needs Python 3.10 or later, and for ASGI uvicorn."""

from .backend import Backend
from .connection import App, Connection
from .frames import ProtocolError
from .registration import RegistrationRefused

__all__ = ["App", "Backend", "Connection", "ProtocolError", "RegistrationRefused"]
