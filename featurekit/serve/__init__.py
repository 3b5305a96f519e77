"""Serve: a stream behind HTTP and WebSocket, that loses nothing it has acknowledged."""

from __future__ import annotations

from featurekit.integrations.extras import missing

try:
    import fastapi  # noqa: F401
    import orjson  # noqa: F401
    import uvicorn  # noqa: F401
    import websockets  # noqa: F401
except ImportError as error:
    raise missing("serve", error.name or "fastapi", error) from error
