"""The server of `captioner serve`: one page, and `POST /caption` that answers with JSON.

It reads no file by a name from outside: it reads the page's files once, at the start. It answers no other web site. The
Host has to be this machine's, so that no foreign name can point to it (DNS rebinding). A browser may post only from the
page itself.

Needs the extra `serve`: Starlette, python-multipart and uvicorn.
"""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from importlib.resources import files
from typing import Any

import python_multipart  # noqa: F401, Starlette needs it for forms
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioner.base.errors import CaptionerError

LARGEST = 20 * 1024 * 1024  # bytes of a photo; page.js has the same
AROUND = 64 * 1024  # bytes of a form around the photo
DRAINED = 10 * LARGEST  # bytes of a body that are read and dropped, so that a browser gets the answer
WAITING = 16  # photos in memory at the same time
PATIENCE = 120  # seconds in which a photo has to arrive
FIELD = "photo"  # of a form
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src blob: data:; script-src 'self'; "
    "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
SAFE = ("GET", "HEAD")  # methods that change and compute nothing

Describe = Callable[[bytes, bool], dict[str, Any]]


class _Form(MultiPartParser):
    spool_max_size = LARGEST + AROUND  # no photo is written to the disk


class _Guard:
    """Refuse requests of other web sites, and add `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp, names: Iterable[str], *, loopback: bool):
        self.app, self.names, self.loopback = app, {name.lower() for name in names}, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no WebSockets here
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        problem = self._problem(Headers(scope=scope), scope["method"])
        app = self.app if problem is None else _Json({"error": problem}, 403)
        await app(scope, receive, send_with_headers)

    def _problem(self, headers: Headers, method: str) -> str | None:
        host = headers.get("host", "")
        if not self._is_here(_name(host)):
            return (
                f"this server does not answer to the name {_name(host) or '(none)'}; open the address that it printed"
            )
        if method in SAFE:
            return None
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return "another web site sent this request; only this server's own page and programs may"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "another web site sent this request; only this server's own page and programs may"
        return None

    def _is_here(self, name: str) -> bool:
        """Return whether `name` can only mean this machine.

        An IP address always does. A host name may point to this machine by DNS rebinding.
        """
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback


def make_app(describe: Describe, *, names: Iterable[str] = (), loopback: bool = True) -> ASGIApp:
    """Return the server as an ASGI application.

    `describe` takes a photo's bytes and whether the answer has a preview. It returns data for JSON, or raises
    CaptionerError if the photo cannot be read. It is called in a thread, one photo at a time, in the order of their
    arrival. `names` are the names of this machine besides localhost. With `loopback` the server answers only requests
    to loopback addresses, otherwise to any IP address.
    """
    page = files("captioner.use") / "page"
    contents = {path: (page.joinpath(name).read_bytes(), kind) for path, (name, kind) in PAGE.items()}
    captions = _Captions(describe)

    async def show(request: Request) -> Response:
        content, kind = contents[request.url.path]
        return Response(content, media_type=kind)

    app = Starlette(
        routes=[
            *(Route(path, show, methods=["GET"]) for path in PAGE),
            Route("/caption", captions.answer, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )
    app.router.redirect_slashes = False
    return _Guard(app, {"localhost", *names}, loopback=loopback)


class _Captions:
    """`POST /caption`: the photo as the body or as the form field `photo`."""

    def __init__(self, describe: Describe):
        self.describe = describe
        self.turn = asyncio.Lock()  # lets requests in by the order of their arrival
        self.inside = 0

    async def answer(self, request: Request) -> Response:
        if self.inside >= WAITING:
            with suppress(HTTPException, ClientDisconnect):
                await _body(request, 0)
            message = f"{WAITING} photos are waiting; try again in a moment"
            raise HTTPException(503, message, headers={"Retry-After": "2"})
        self.inside += 1
        try:
            photo = await asyncio.wait_for(_photo(request), PATIENCE)
            async with self.turn:
                if await request.is_disconnected():
                    return Response(status_code=499)  # nobody reads the answer
                answer = await run_in_threadpool(self.describe, photo, "preview" in request.query_params)
        except CaptionerError as error:
            raise HTTPException(415, str(error)) from None
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the photo did not arrive within {PATIENCE} seconds; send it again") from None
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            self.inside -= 1
        return _Json(answer)


async def _photo(request: Request) -> bytes:
    """Return the photo's bytes; raises HTTPException if the body has no photo or is too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    data = await _body(request, LARGEST + AROUND * form)
    if form:
        data = await _field(request.headers, data)
    if len(data) > LARGEST:
        raise _too_large()
    if not data:
        raise HTTPException(400, f"no photo; send its bytes as the body or as the form field `{FIELD}`")
    return data


async def _body(request: Request, most: int) -> bytes:
    """Return the body; raises HTTPException if it has more than `most` bytes.

    The rest of such a body is read and dropped, because a browser shows no answer before it has sent everything.
    """
    length = request.headers.get("content-length", "")
    too_large = length.isdecimal() and int(length) > most
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        too_large = too_large or total > most
        if not too_large:
            parts.append(part)
            continue
        parts.clear()
        if total > DRAINED:
            break
    if too_large:
        raise _too_large()
    return b"".join(parts)


async def _field(headers: Headers, body: bytes) -> bytes:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await _Form(headers, stream(), max_files=1, max_fields=10, max_part_size=AROUND).parse()  # type: ignore[arg-type]
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from None
    try:
        photo = form.get(FIELD)
        if not isinstance(photo, UploadFile):
            raise HTTPException(400, f"the form has no file in the field `{FIELD}`")
        return await photo.read()
    finally:
        await form.close()


def _too_large() -> HTTPException:
    return HTTPException(413, f"the photo is larger than {LARGEST // 2**20} MB; send a smaller one")


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == 404:
        message = "there is nothing here; the page is /, and photos are sent by POST /caption"
    elif error.status_code == 405:
        message = f"{request.method} is not a method of {request.url.path}; expected {(error.headers or {})['Allow']}"
    return _Json({"error": message}, error.status_code, error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    return _Json({"error": "the server failed; its terminal says how"}, 500)


def _name(host: str) -> str:
    """Return the name or the address in a Host header, in lower case, without the port and the brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
