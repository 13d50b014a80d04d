"""The server of the page: its files, and answers to its questions.

Only what the index lists is ever sent: a picture is named by its id, never by a path.
"""

import json
import mimetypes
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..search.rows import ROW_NUMBER, find_file
from ..utils.errors import UserError, one_line
from . import questions
from .collection import LARGE_SIDE, Collection, without_paths
from .files import VENDOR_FOLDER, WEB_FOLDER
from .live_map import LiveMap
from .model_files import pack_background

#: Bytes of a question in JSON, at most.
MOST_JSON = 1_000_000
#: Names that this machine may be addressed by, if only this machine is served.
LOCAL_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
COOKIE = "clip_vit_token"
#: Types that every browser shows; others are sent as WebP.
SHOWN_TYPES = frozenset(f"image/{name}" for name in ("jpeg", "png", "gif", "webp", "avif", "bmp"))
#: A file that is opened on its own can do nothing.
NO_SCRIPTS = "default-src 'none'; sandbox"
#: How browsers may keep an answer whose address names the version of its content.
FOREVER = "private, max-age=31536000, immutable"


class Server:
    """Answers the requests of a page.

    Args:
        collection: of pictures.
        most_bytes: size of an uploaded picture, at most.
        token: that visitors must have; None lets in everybody who can reach the server.
    """

    def __init__(self, collection: Collection, most_bytes: int, token: str | None = None):
        self.collection, self.most_bytes, self.token = collection, most_bytes, token
        self.map = LiveMap(collection)

    def application(self) -> Starlette:
        """The ASGI application."""
        model = self.collection.index.model_folder
        routes = [
            Route("/", self.page),
            Route("/data/site.json", self.site),
            Route("/data/background.bin", self.background),
            Route("/data/map.json", self.map_json),
            Route("/data/map.webp", self.map_sheet),
            Route("/search", self.search, methods=["GET", "POST"]),
            Route("/classify", self.classify, methods=["POST"]),
            Route("/embed", self.embed, methods=["POST"]),
            Route("/thumbnail", self.thumbnail),
            Route("/picture", self.picture),
            Mount("/vendor", StaticFiles(directory=VENDOR_FOLDER)),
            Mount("/model", StaticFiles(directory=model)),
            Mount("/", StaticFiles(directory=WEB_FOLDER)),
        ]
        hosts = LOCAL_HOSTS if self.token is None else ["*"]
        middleware = [
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            Middleware(BaseHTTPMiddleware, dispatch=self.guard),
        ]
        errors: Any = dict.fromkeys((UserError, OSError, HTTPException), answer_error)
        return Starlette(routes=routes, middleware=middleware, exception_handlers=errors)

    async def guard(
        self, request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Answer only visitors with the token, and bar other sites from reading the answer."""
        given = request.query_params.get("token")
        if self.token is not None:
            if given is not None and secrets.compare_digest(given.encode(), self.token.encode()):
                # The address without the token, so that it is not in bookmarks and screenshots.
                response: Response = RedirectResponse("/", 303)
                response.set_cookie(
                    COOKIE, self.token, max_age=30 * 86400, httponly=True, samesite="strict"
                )
                return response
            if not self.is_known(request):
                return JSONResponse({"error": "open the address with its token once"}, 401)
        response = await answer(request)
        response.headers.setdefault("Cache-Control", "no-cache")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["X-Frame-Options"] = "DENY"
        return response

    def is_known(self, request: Request) -> bool:
        """Whether a request has the token, as a cookie or as a bearer."""
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = request.cookies.get(COOKIE, bearer)
        return secrets.compare_digest(given.encode(), (self.token or "").encode())

    async def page(self, request: Request) -> Response:
        """The page."""
        return FileResponse(WEB_FOLDER / "index.html")

    async def site(self, request: Request) -> Response:
        """What the page must know first."""
        return JSONResponse(await run_in_threadpool(self.collection.describe))

    async def background(self, request: Request) -> Response:
        """The embeddings of the fixed texts about everything."""
        content = pack_background(await run_in_threadpool(self.collection.read_background))
        return Response(content, media_type="application/octet-stream")

    async def map_json(self, request: Request) -> Response:
        """Places of some pictures."""
        live = await run_in_threadpool(self.map.refresh)
        return JSONResponse(live.content)

    async def map_sheet(self, request: Request) -> Response:
        """Thumbnails of the same pictures on one sheet."""
        live = await run_in_threadpool(self.map.refresh)
        return Response(live.sheet, media_type="image/webp", headers={"Cache-Control": FOREVER})

    async def search(self, request: Request) -> Response:
        """Pictures that match a question in JSON, or `?q=text&count=10`."""
        if request.method == "POST":
            question = await read_question(request)
            return JSONResponse(
                await run_in_threadpool(questions.search, self.collection, question)
            )
        text, count = request.query_params.get("q", ""), request.query_params.get("count", "36")
        if not count.isdecimal():
            raise questions.RequestError(f"count is {count!r}, and must be a number")
        found = await run_in_threadpool(questions.search_text, self.collection, text, int(count))
        return JSONResponse(found)

    async def classify(self, request: Request) -> Response:
        """Every picture under the label that fits best."""
        question = await read_question(request)
        labels, rejects = question.get("labels"), question.get("rejects") is True
        groups = await run_in_threadpool(questions.classify, self.collection, labels, rejects)
        return JSONResponse({"groups": groups})

    async def embed(self, request: Request) -> Response:
        """The vector of an uploaded picture."""
        content = await read_body(request, self.most_bytes, "a picture")
        vector = await run_in_threadpool(questions.embed_upload, self.collection, content)
        return JSONResponse({"vector": vector})

    async def thumbnail(self, request: Request) -> Response:
        """A picture's thumbnail."""
        id = request.query_params.get("id", "")
        content = await run_in_threadpool(self.collection.thumbnail, id)
        return Response(content, media_type="image/webp", headers={"Cache-Control": FOREVER})

    async def picture(self, request: Request) -> Response:
        """A picture as it is in the collection; a part of it, if the browser asks for a range."""
        row = await run_in_threadpool(self.collection.find_row, request.query_params.get("id", ""))
        headers = {"Cache-Control": FOREVER, "Content-Security-Policy": NO_SCRIPTS}
        with without_paths(row):
            file = own_file(row)
        kind = mimetypes.guess_type(row["path"])[0]
        if file is not None and kind in SHOWN_TYPES and file.is_file():
            return FileResponse(file, media_type=kind, headers=headers)
        content = await run_in_threadpool(self.collection.encode_picture, row, LARGE_SIDE)
        return Response(content, media_type="image/webp", headers=headers)


def own_file(row: Mapping[str, Any]) -> Path | None:
    """The file that is this picture alone; None for a row of a table or a frame of a video.

    Raises:
        UserError: it lies outside the folder that was indexed.
    """
    is_part = row.get("time") is not None or ROW_NUMBER.match(row["id"])
    return None if is_part else find_file(row)


async def read_question(request: Request) -> dict[str, Any]:
    """The content of a question in JSON.

    Raises:
        HTTPException: it is too long, or not an object in JSON.
    """
    content = await read_body(request, MOST_JSON, "a question")
    try:
        question = json.loads(content)
    except (ValueError, RecursionError):
        question = None
    if not isinstance(question, dict):
        raise HTTPException(400, "a question must be an object in JSON")
    return question


async def read_body(request: Request, most: int, what: str) -> bytes:
    """The content of a request, as long as it is short enough.

    Raises:
        HTTPException: it is longer; the rest is not read.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, f"{what} may have at most {most / 1e6:g} MB")
        parts.append(part)
    return b"".join(parts)


async def answer_error(request: Request, error: Exception) -> Response:
    """An error that the visitor can fix, as one sentence."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    if isinstance(error, OSError):  # without the paths of this machine
        return JSONResponse({"error": error.strerror or type(error).__name__}, 500)
    return JSONResponse({"error": one_line(error)}, 400)
