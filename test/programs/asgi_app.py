"""An ASGI application for tests: answers once the whole request is there, with its pid. `/large` sends 16 MiB."""

import json
import os

LARGE = 16 * 1024 * 1024


async def app(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print(json.dumps({"msg": "lifespan over"}), flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        seen = {"pid": os.getpid(), "size": size, "client": scope["client"]}
        body = b"x" * LARGE if scope["path"] == "/large" else json.dumps(seen, separators=(",", ":")).encode()
        pid = str(os.getpid()).encode()
        headers = [(b"content-length", str(len(body)).encode()), (b"x-pid", pid)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
