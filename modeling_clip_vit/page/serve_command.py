"""The command `clip-vit serve`."""

import secrets
import socket
from dataclasses import dataclass

from jsonargparse.typing import PositiveInt

from ..search.index import PictureIndex
from ..utils.command_line import CommandParser, build_options
from ..utils.errors import UserError
from ..utils.packages import require
from .options import PageOptions

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class ServeOptions(PageOptions):
    """Who is served, and what the page shows.

    Args:
        host: address to listen on; 127.0.0.1 serves this machine alone, 0.0.0.0 the whole network.
        port: port to listen on.
        token: secret that visitors must have, unless only this machine is served; a random one by
            default, which is printed.
        upload_limit: size of an uploaded picture at most, in MB.
        threads: threads that the model computes with; all cores by default.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    upload_limit: PositiveInt = 32
    threads: PositiveInt | None = None


def run_serve(arguments: list[str]) -> int:
    """Serve the page of an index until it is interrupted."""
    parsed = build_parser().parse(arguments, ServeOptions)
    options = build_options(parsed, ServeOptions)
    require(("starlette", "uvicorn"), "serve", "clip-vit serve")
    index = PictureIndex.open(parsed.index)
    token = options.token
    if token is None and options.host not in LOOPBACK:
        token = secrets.token_urlsafe(16)
    with listen(options.host, options.port) as opened:
        import uvicorn

        from .collection import Collection
        from .server import Server

        collection = Collection(index, options, options.threads)
        count = collection.describe()["count"]
        server = Server(collection, options.upload_limit * 1_000_000, token)
        address = f"http://{host_in_address(options.host)}:{opened.getsockname()[1]}/"
        print(f"{count:,} pictures on {address}{f'?token={token}' if token else ''}", flush=True)
        config = uvicorn.Config(server.application(), log_level="warning", server_header=False)
        uvicorn.Server(config).run(sockets=[opened])
    return 0


def host_in_address(host: str) -> str:
    """The host that visitors write in an address, for the one to listen on."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Raises:
        UserError: the port is in use, or the address is not one of this machine.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}, and can be 0 (any free one) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot listen on port {port} of {host!r}: {reason.lower()}; name another --port or "
            "--host"
        ) from error
    return opened


def build_parser() -> CommandParser:
    """The arguments of `clip-vit serve`."""
    parser = CommandParser(
        prog="clip-vit serve",
        description="Serve a page that searches an index of pictures, of any size and while it "
        "grows. Only this machine is served unless --host says otherwise, and then only visitors "
        "with the token.",
        example="clip-vit serve photos-index",
    )
    parser.add_argument("index", type=str, help="index of pictures, made by clip-vit index")
    parser.add_class_arguments(ServeOptions)
    return parser
