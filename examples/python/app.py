"""An ASGI application without a framework. `app` could as well be one of Starlette, FastAPI, Quart or Django.

    BATON_SOCKET=/run/baton/control.sock BATON_SERVICE=web python3 -m baton_backend app:app
"""

import os


async def app(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        client = "{}:{}".format(*scope["client"]) if scope["client"] else "a Unix socket"
        body = f"Hello from process {os.getpid()}. You are {client}.\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def lifespan(receive, send) -> None:
    while (message := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
