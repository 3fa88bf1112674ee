"""Requests to one ComfyUI, also behind a proxy: what passes is tried again, what stays is named."""

import contextlib
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import requests
from requests.auth import HTTPBasicAuth

from .trouble import BadInput, HostGone, NotLetIn, RowFailed, TryAgain
from .values import shorten

CONNECT, ANSWER = 5, 120  # seconds; ComfyUI answers late while it loads a model
PAUSES = (0.2, 0.5, 1.0, 2.0)  # seconds before each further try
LONGEST_PAUSE = 30.0  # seconds, if the answer asks for one
# what hosts that start and proxies before them answer for a while; 404 is a tunnel's
PASSING = {404, 408, 410, 425, 429, *range(500, 600)}
JSON_POSTS = ("/prompt", "/upload/image")  # the others may be answered by nothing
CREDENTIALS = {401, 403, 407}
SHORTEST_SECRET = 4  # letters; shorter header values are words like 1 and yes
PAGES = ("text/html", "application/xhtml")
PAGE_NAMES = (".html", ".htm", ".xhtml")
PAGE_START = re.compile(rb"\s*<(!doctype html|html|head|body)\b", re.IGNORECASE)
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Access:
    """What a host behind a proxy wants: headers of every request, and who vouches for it.

    certificate: a file of the authorities that sign the host's certificate; None: the usual ones.
    """

    headers: tuple[tuple[str, str], ...] = ()
    certificate: Path | None = None


def read_access(headers: list[str], certificate: Path | None) -> Access:
    """Make the access of the command line. BadInput if it is no header or no certificate.

    headers: "NAME: VALUE", or "@FILE", a file with a line for each, so that no list of processes
    shows them.
    """
    lines: list[str] = []
    for header in headers:
        lines += _lines_of(Path(header[1:])) if header.startswith("@") else [header]
    halves = [line.partition(":") for line in lines]
    pairs = [(name.strip(), value.strip()) for name, _, value in halves]
    for name, value in pairs:
        is_text = value.isascii() and value.isprintable()
        if not value or not is_text or not HEADER_NAME.fullmatch(name):
            raise BadInput(
                f"--header '{shorten(name)}' is no header. Write 'NAME: VALUE' in ASCII letters, "
                "or @FILE for a file of such lines."
            )
    if certificate:
        try:
            ssl.create_default_context(cafile=str(certificate))
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if isinstance(error, FileNotFoundError) else "no PEM file"
            raise BadInput(f"--certificate {certificate} cannot be used: {reason}.") from None
    return Access(tuple(pairs), certificate)


def _lines_of(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"--header @{path} cannot be read: {reason}.") from None


class Connection:
    """Asks a ComfyUI at a URL. Its credentials are used, and never shown.

    url: as the user wrote it, without http:// or with name:password@ too.
    """

    def __init__(self, url: str, access: Access = Access()) -> None:  # noqa: B008 (frozen)
        self.url, credentials = split_url(url)
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy for the internet knows no ComfyUI
        if credentials:  # as bytes: requests writes only Latin letters
            name, password = credentials
            self.session.auth = HTTPBasicAuth(name.encode(), password.encode())
        self.session.headers.update(dict(access.headers))
        if access.certificate:
            self.session.verify = str(access.certificate)
        self.secrets = _secrets(access, credentials)

    def get(self, path: str) -> Any:
        """Return the JSON that the host answers to GET `path`."""
        return self.ask("GET", path).json()

    def get_object(self, path: str) -> dict[str, Any]:
        """Return the JSON object that the host answers to GET `path`."""
        content = self.get(path)
        if not isinstance(content, dict):
            raise HostGone(f"{self.url} answers {path} with something that is not ComfyUI's.")
        return content

    def get_once(self, path: str) -> Any:
        """Return the JSON of one try, or None if the answer is something else."""
        reply = self._send("GET", path)
        if reply.status_code in CREDENTIALS or reply.is_redirect:
            raise NotLetIn(self._reason(reply))
        if reply.status_code in PASSING - {404}:
            raise HostGone(f"{self.url} answered {reply.status_code}: its host is away.")
        try:
            return reply.json() if reply.ok else None
        except ValueError:
            return None

    def post(
        self, path: str, content: dict[str, Any], is_taken: Callable[[], bool] | None = None
    ) -> Any:
        """POST JSON to `path`; the answer's JSON or None. RowFailed with the host's message.

        is_taken: asks whether the host got what an unclear answer leaves open; then it is not sent
        again.
        """
        reply = self.ask("POST", path, is_taken, json=content)
        return reply.json() if reply is not None and path in JSON_POSTS else None

    def ask(
        self,
        method: str,
        path: str,
        is_taken: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Any:
        """Send a request, again after what passes; HostGone if it stays, RowFailed if refused.

        The answer is a requests.Response, or None if `is_taken` said so.
        """
        reason = ""
        for pause in (*PAUSES, None):
            try:
                reply = self._send(method, path, **options)
            except HostGone:
                if pause is None:
                    raise
                reply = None
            if reply is not None:
                reason = self._passing(reply, path, method == "GET" or path in JSON_POSTS)
                if not reason:
                    return self._checked(reply, path)
            if pause is None:
                break
            time.sleep(self._pause(reply, pause))
            if is_taken and is_taken():
                return None
        assert reply is not None
        if reply.status_code == 500 and method == "POST":
            raise RowFailed(self._hide(_refusal_of(reply)))
        raise HostGone(reason)

    def close(self) -> None:
        """Let go of the connection."""
        self.session.close()

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        with connected(self.url):
            return self.session.request(
                method,
                self.url + path,
                timeout=(CONNECT, ANSWER),
                allow_redirects=False,  # a POST would become a GET, and credentials go astray
                **options,
            )

    def _passing(self, reply: requests.Response, path: str, wants_json: bool) -> str:
        """Say why an answer may be another one in a moment; "" if it is the host's."""
        if reply.status_code in PASSING and not (path == "/view" and reply.status_code == 404):
            return f"{self.url} answered {reply.status_code} several times: its host is away."
        if not reply.ok or reply.is_redirect:
            return ""
        is_file = path == "/view"
        if _is_page(reply) or (wants_json and not is_file and not _is_json(reply)):
            return self._page()
        return ""

    def _page(self) -> str:
        return (
            f"{self.url} answers with a web page instead of ComfyUI's data: that of a proxy that "
            "wants credentials (--header), or has lost its host."
        )

    def _checked(self, reply: requests.Response, path: str) -> requests.Response:
        if path == "/view" and reply.status_code == 404:
            raise TryAgain("the host no longer has the file that it saved for this row before")
        if path == "/view" and reply.status_code in (400, 403):
            raise RowFailed("the host saved a file outside of its output folder and keeps it there")
        if reply.is_redirect or reply.status_code in CREDENTIALS:
            raise NotLetIn(self._reason(reply))
        if reply.status_code == 413:
            raise RowFailed(
                "413: the row's files or values are larger than the host or its proxy takes: "
                "raise ComfyUI's --max-upload-size, or the proxy's limit"
            )
        if not reply.ok:
            raise RowFailed(self._hide(_refusal_of(reply)))
        return reply

    def _reason(self, reply: requests.Response) -> str:
        if reply.is_redirect:
            place = reply.headers["location"].split("?")[0].rpartition("@")[2]
            return f"{self.url} redirects to {place}: if that is the ComfyUI, name it in --host."
        return (
            f"{self.url} answered {reply.status_code}: it wants credentials. Give them as "
            "--header 'Authorization: ...' or as http://name:password@... in --host."
        )

    def _pause(self, reply: requests.Response | None, usual: float) -> float:
        seconds = reply.headers.get("retry-after", "") if reply is not None else ""
        return min(float(seconds), LONGEST_PAUSE) if seconds.isdecimal() else usual

    def _hide(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def read(self, reply: requests.Response, name: str, size: int) -> Iterator[bytes]:
        """The bytes of a file in pieces of this size. HostGone if it is cut off or a web page."""
        length = reply.headers.get("content-length", "")
        is_plain = "content-encoding" not in reply.headers
        count = 0
        with connected(self.url), reply:
            for chunk in reply.iter_content(size):
                if not count and PAGE_START.match(chunk) and not name.lower().endswith(PAGE_NAMES):
                    raise HostGone(self._page())
                count += len(chunk)
                yield chunk
        if not count or (length.isdecimal() and is_plain and count != int(length)):
            raise HostGone(f"{self.url} sent {name} incompletely.")


def _secrets(access: Access, credentials: tuple[str, str] | None) -> list[str]:
    """List what an answer may repeat and nobody may read, the longest first."""
    values = [value for _, value in access.headers]
    texts = [*values, *(value.split()[-1] for value in values)]
    if credentials:
        pair = b64encode(":".join(credentials).encode()).decode()
        texts += [credentials[1], quote(credentials[1]), pair]
    return sorted({text for text in texts if len(text) >= SHORTEST_SECRET}, key=len, reverse=True)


def split_url(url: str) -> tuple[str, tuple[str, str] | None]:
    """Split what the user wrote into (the address, (name, password) or None)."""
    try:
        parts = urlsplit(url.strip() if "://" in url else f"http://{url.strip()}")
        _ = parts.port
    except ValueError:
        raise BadInput(_no_address(url)) from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise BadInput(_no_address(url))
    if parts.query or parts.fragment:
        raise BadInput(
            f"{parts.hostname}: --host is an address without ? and #. What its proxy wants to know "
            "is given by --header."
        )
    place = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme.lower(), place, parts.path.rstrip("/"), "", ""))
    if parts.username is None:
        return address, None
    return address, (unquote(parts.username), unquote(parts.password or ""))


def _no_address(url: str) -> str:
    return f"{url.rpartition('@')[2]} is no address. Write it as http://name:8188."


@contextlib.contextmanager
def connected(url: str) -> Iterator[None]:
    """Turn every way in which a connection ends into HostGone."""
    try:
        yield
    except (
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidURL,
        UnicodeError,
    ):
        raise BadInput(_no_address(url)) from None
    except requests.exceptions.SSLError:
        raise NotLetIn(
            f"{url} has a certificate that nobody here vouches for, or speaks no https. Give the "
            "file of its authority with --certificate."
        ) from None
    except requests.exceptions.InvalidJSONError:
        raise RowFailed("the workflow holds a number that is NaN or Infinity") from None
    except requests.exceptions.RequestException:
        raise HostGone(f"{url} does not answer.") from None


def _is_page(reply: requests.Response) -> bool:
    return reply.headers.get("content-type", "").lower().startswith(PAGES)


def _is_json(reply: requests.Response) -> bool:
    try:
        reply.json()
    except (ValueError, RecursionError):
        return False
    return True


def _refusal_of(reply: requests.Response) -> str:
    try:
        return refusal(reply.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        text = "a web page" if _is_page(reply) else shorten(reply.text, 200)
        return f"the host answered {reply.status_code}: {text}"


def refusal(reply: dict[str, Any]) -> str:
    """Say node by node why the host refused a workflow. reply: its answer to POST /prompt."""
    lines = [
        f"{node['class_type']} (node {name}): {error['message']}: {error['details']}"
        for name, node in (reply.get("node_errors") or {}).items()
        for error in node["errors"]
    ]
    return shorten(
        "; ".join(lines) or f"{reply['error']['message']}: {reply['error']['details']}", 2000
    )
