"""python3 -m baton_backend MODULE:APP"""

import argparse
import os
import sys

import uvicorn

from .uvicorn_app import Server


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m baton_backend",
        description="Serves an ASGI application behind Baton. BATON_SOCKET and BATON_SERVICE name the broker and the service.",
    )
    parser.add_argument("app", help="MODULE:NAME, as for uvicorn")
    parser.add_argument("--drain-deadline", type=float, default=30, metavar="SECONDS", help="30 by default")
    parser.add_argument("--keep-alive", type=int, default=5, metavar="SECONDS", help="for an idle connection; 5 by default")
    parser.add_argument("--log-level", default="info", choices=["critical", "error", "warning", "info", "debug"])
    options = parser.parse_args()
    path = os.environ.get("BATON_SOCKET")
    if not path:
        parser.error("BATON_SOCKET is not set: it must be the path of the broker's control.sock")
    config = uvicorn.Config(
        options.app,
        http="h11",
        loop="asyncio",
        log_level=options.log_level,
        access_log=False,
        timeout_keep_alive=options.keep_alive,
    )
    Server(
        config,
        path,
        os.environ.get("BATON_SERVICE", "web"),
        options.drain_deadline,
        version=os.environ.get("BATON_VERSION"),
        secret=os.environ.get("BATON_SECRET"),
    ).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
