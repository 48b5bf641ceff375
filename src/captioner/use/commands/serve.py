"""`captioner serve`: a page in the browser that captions photos."""

import argparse
import contextlib
import errno
import ipaddress
import socket
import sys
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.use.commands.arguments import add_device, add_model, add_search, importing, model_file
from captioner.use.options import Search

ANYWHERE = ("0.0.0.0", "::")


def add_parser(commands: Any) -> None:
    """Define the command."""
    parser = commands.add_parser(
        "serve",
        help="show captions in the browser",
        description="Serve one page: drop, paste, take or choose photos, and see their captions, where the model "
        "looked at each word, and the other beams. Print its address; Ctrl-C ends it. Scripts get the same as JSON by "
        "POST /caption. It needs no network, but the extra `serve`: pip install 'captioner[serve]'.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; 0.0.0.0: all networks of this machine (default: %(default)s, this machine)",
    )
    parser.add_argument("--port", type=_port, default=0, help="the port (default: any free one)")
    add_model(parser)
    add_search(parser)
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; print the address."""
    search: dict[str, Any] = {
        "beam": options.beam,
        "length_penalty": options.length_penalty,
        "consensus": options.consensus,
    }
    Search(**search)  # an option out of range ends the command here, and not each request
    model = model_file(options.model)
    with importing():
        try:
            import uvicorn

            from captioner.use.server import make_app
        except ImportError:
            raise CaptionerError(
                "serve: needs Starlette, uvicorn and python-multipart, which come with the extra `serve`: "
                "`pip install 'captioner[serve]'`"
            ) from None
        from captioner.use.caption import PhotoCaptioner
        from captioner.use.description import describe_photo
    with _listen(options.host, options.port) as listening:
        describe = PhotoCaptioner(model, device=options.device)
        _ = describe.consensus  # computed now and not with the first photo
        address, port = listening.getsockname()[:2]
        loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        app = make_app(
            lambda photo, preview: describe_photo(describe, photo, preview=preview, **search),
            names=[options.host, *([] if loopback else _names())],
            loopback=loopback,
        )
        for line in _addresses(options.host, address, port):
            print(line, flush=True)
        if not loopback:
            print(
                f"warning: whoever can reach {options.host} can use this page; what they send is not encrypted",
                file=sys.stderr,
            )
        print("Ctrl-C ends it", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,  # seconds; an upload that stalls does not hold the end up
        )
        # After an interruption uvicorn completes its answers, then raises it again.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises CaptionerError if this fails."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        raise CaptionerError(f"--host {host}: is neither an address nor a name of this machine") from None
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            problem = "in use; give another port, or none for any free one"
        elif error.errno == errno.EADDRNOTAVAIL:
            raise CaptionerError(f"--host {host}: is no address of this machine") from None
        else:
            problem = f"cannot listen on it ({error.strerror or error})"
        raise CaptionerError(f"--port {port}: {problem}") from None


def _names() -> list[str]:
    """Return the names of this machine in a local network."""
    name = socket.gethostname()
    return [name, f"{name.partition('.')[0]}.local"]


def _addresses(host: str, address: str, port: int) -> list[str]:
    """Return the addresses of the page."""
    hosts = [host]
    if address in ANYWHERE:
        hosts = ["127.0.0.1" if address == "0.0.0.0" else "::1"]
        outside = _outside(socket.AF_INET if address == "0.0.0.0" else socket.AF_INET6)
        hosts += [outside] if outside and outside not in hosts else []
    return [f"http://{f'[{host}]' if ':' in host else host}:{port}/" for host in hosts]


def _outside(family: socket.AddressFamily) -> str | None:
    """Return the address of this machine in its network, or None; sends nothing."""
    documentation = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"  # belongs to nobody (RFC 5737, RFC 3849)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((documentation, 9))
        except OSError:
            return None
        return probe.getsockname()[0]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a whole number from 0 to 65535")
    return int(text)
