"""Requests that no honest caller sends: bytes for a socket, the same for the same seed."""

import gzip
import json
import random
import socket
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

JSON, PNG, JPEG, TEXT = "application/json", "image/png", "image/jpeg", "text/plain"
FORM = "multipart/form-data; boundary=x"
_WORDS = (
    "\0",
    "﷽" * 50,
    "\ud800",
    "🤖" * 200,
    "../../etc/passwd",
    "/dev/zero",
    "<script>",
    "A" * 5000,
)
_VALUES = (
    "NaN", "-Infinity", "1e999", "-1", "256", "9" * 400, "9" * 5000, "0.5", "null", "true", '"a"',
    "{}", "[]", "1e-320", '"\\ud800"',
)  # fmt: skip
_CHUNKS = (
    b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf",
    b"acTL", b"fcTL", b"fdAT", b"IHDR", b"PLTE", b"IDAT", b"aaAa", b"\0\xff\0\xff",
)  # fmt: skip
_CONTENTS = (
    b"", b"\0", b"a\0", b"a\0\1", b"a\0\0" + zlib.compress(b"a" * 99), b"a" + bytes(40),
    b"MM\0\x2a\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0", b"II\x2a\0", b"\xff" * 30,
    b"Raw profile type exif\0\nexif\n 9\nzz",
)  # fmt: skip


@dataclass(frozen=True)
class Broken:
    """One request, and whether its head says as many bytes as there are."""

    kind: str
    sent: bytes
    whole: bool = True


class Vandal:
    """Makes broken requests out of honest ones: pictures, arrays, texts."""

    def __init__(self, honest: list[bytes], seed: int = 0):
        self.honest, self.chance = honest, random.Random(seed)
        self.ways: list[Callable[[], Broken]] = [
            self.truncated, self.altered, self.noise, self.bomb, self.chunks, self.wrong_type,
            self.arrays, self.texts, self.nested, self.ragged, self.form, self.headers, self.head,
            self.cut_off,
        ]  # fmt: skip

    def request(self) -> Broken:
        """The next one."""
        return self.chance.choice(self.ways)()

    def truncated(self) -> Broken:
        """A file without its end."""
        file = self._file()
        return self._post("truncated", file[: self.chance.randrange(len(file))], PNG)

    def altered(self) -> Broken:
        """A file with other bytes; half of the time with checksums that fit."""
        file = bytearray(self._file())
        for _ in range(self.chance.choice((1, 3, 20))):
            file[self.chance.randrange(len(file))] = self.chance.randrange(256)
        content = bytes(file)
        return self._post("altered", _checked(content) if self._coin() else content, PNG)

    def noise(self) -> Broken:
        """Any bytes, maybe with the beginning of a picture."""
        start = self.chance.choice(
            (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF")
        )
        kind = self.chance.choice((PNG, JPEG, JSON, TEXT, "", "a/b"))
        return self._post("noise", start + self.chance.randbytes(self.chance.randrange(2000)), kind)

    def bomb(self) -> Broken:
        """A picture of very many pixels in few bytes, or a header that promises them."""
        side = self.chance.choice((2000, 5000, 50_000, 2**31 - 1))
        rows = zlib.compress(bytes(min(side * 1000, 20_000_000)), 9)
        head = side.to_bytes(4) * 2 + bytes((self.chance.choice((1, 8, 16)), 0, 0, 0, 0))
        chunks = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
        if self._coin():
            text = b"a\0\0" + zlib.compress(bytes(10_000_000), 9)
            chunks.insert(1, (self.chance.choice((b"zTXt", b"iCCP")), text))
        return self._post("bomb", _png(chunks), PNG)

    def chunks(self) -> Broken:
        """A good picture with more in it than one needs, before its pixels or behind them."""
        head = (8).to_bytes(4) * 2 + bytes((8, self.chance.choice((0, 2, 3, 6)), 0, 0, 0))
        pixels = zlib.compress(bytes(8 * (1 + 8 * 4)))
        chunks = [(b"IHDR", head), (b"PLTE", bytes(6)), (b"IDAT", pixels), (b"IEND", b"")]
        for _ in range(self.chance.choice((1, 1, 3))):
            more = self.chance.choice(_CHUNKS), self.chance.choice(_CONTENTS)
            chunks.insert(self.chance.randrange(1, len(chunks)), more)
        return self._post("chunks", _png(chunks), PNG)

    def wrong_type(self) -> Broken:
        """Something honest under another name."""
        kind = self.chance.choice(
            (JSON, TEXT, FORM, "multipart/form-data", "image/gif", "é", JSON + ";" * 50)
        )
        return self._post(
            "wrong type", self.chance.choice((self._file(), gzip.compress(b"[]"))), kind
        )

    def arrays(self) -> Broken:
        """Arrays of values that are no pixels."""
        height, width = self.chance.choice(((1, 1), (8, 8), (28, 28), (1, 300), (0, 3)))
        row = "[" + ",".join(self.chance.choice(_VALUES) for _ in range(width)) + "]"
        body = "[[" + ",".join([row] * height) + "]]"
        return self._post("arrays", body.encode(), JSON)

    def texts(self) -> Broken:
        """Texts where there may be none, and such as few programs like."""
        words = [self.chance.choice(_WORDS) for _ in range(self.chance.randrange(4))]
        found = self.chance.choice((words, {"inputs": words}, [words], "".join(words), None, 1e308))
        body = json.dumps(found).encode()
        if self._coin():
            return self._post("texts", "".join(words).encode(errors="replace"), TEXT)
        return self._post("texts", body if self._coin() else body[:-1], JSON)

    def nested(self) -> Broken:
        """Brackets, deep and wide."""
        depth = self.chance.choice((5, 70, 5000, 100_000))
        whole = b"[" * depth + b"1" + b"]" * depth
        return self._post("nested", self.chance.choice((whole, b"[" * depth, b"[]," * depth)), JSON)

    def ragged(self) -> Broken:
        """Pictures whose rows differ."""
        rows = [[0] * self.chance.randrange(9) for _ in range(self.chance.randrange(9))]
        return self._post(
            "ragged", json.dumps([rows, rows[:1], 3][: self.chance.randrange(4)]).encode(), JSON
        )

    def form(self) -> Broken:
        """Forms without ends, fields or sense."""
        field = b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n" + self._file() + b"\r\n"
        body = self.chance.choice(
            (field, field + b"--x--", b"--x--", b"--x\r\n--x--", b"", field * 300 + b"--x--\r\n")
        )
        kind = self.chance.choice(
            (FORM, "multipart/form-data; boundary=", 'multipart/form-data; boundary="')
        )
        return self._post("form", body, kind)

    def headers(self) -> Broken:
        """Headers of great size or number."""
        many = [(f"X-{n}", "a" * 20) for n in range(self.chance.choice((10, 1000)))]
        long = [("X", "a" * self.chance.choice((100, 8000, 70_000)))]
        return self._post("headers", self._file(), PNG, self.chance.choice((many, long)))

    def head(self) -> Broken:
        """No HTTP, or nearly none."""
        host = b" HTTP/1.1\r\nHost: localhost\r\n"
        post = b"POST /predict" + host
        lines = (
            b"POST /predict HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n", self.chance.randbytes(200),
            post + b"Content-Length: -1\r\n\r\n", post + b"Content-Length: 9e9\r\n\r\n",
            post + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /" + b"a" * self.chance.choice((10, 70_000)) + host + b"\r\n",
            b"PUT /predict" + host + b"\r\n", b"GET /%00%ff" + host + b"\r\n",
        )  # fmt: skip
        return Broken("head", self.chance.choice(lines), whole=False)

    def cut_off(self) -> Broken:
        """A caller who goes away in the middle."""
        whole = self._post("cut off", self._file(), PNG).sent
        return Broken("cut off", whole[: self.chance.randrange(1, len(whole))], whole=False)

    def _coin(self) -> bool:
        return self.chance.random() < 0.5

    def _file(self) -> bytes:
        return self.chance.choice(self.honest)

    def _post(
        self, kind: str, body: bytes, type_: str, more: list[tuple[str, str]] | None = None
    ) -> Broken:
        lines = [("Host", "localhost"), ("Connection", "close"), ("Content-Length", str(len(body)))]
        lines += [("Content-Type", type_), *(more or [])]
        head = "".join(f"{name}: {text}\r\n" for name, text in lines)
        return Broken(kind, f"POST /predict HTTP/1.1\r\n{head}\r\n".encode() + body)


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = (
        len(part).to_bytes(4) + name + part + zlib.crc32(name + part).to_bytes(4)
        for name, part in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _checked(content: bytes) -> bytes:
    """The PNG with checksums that fit, as far as its chunks can be told."""
    chunks, at = [], 8
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    return _png(chunks)


def status_of(port: int, broken: Broken) -> int:
    """The status that a broken request gets; 0 if the server hangs up without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as caller:
        found = b""
        try:
            caller.sendall(broken.sent)
            if not broken.whole:
                caller.shutdown(socket.SHUT_WR)
            while b"\r\n" not in found and (part := caller.recv(4096)):
                found += part
        except (BrokenPipeError, ConnectionResetError):  # it was told enough
            pass
    return int(found.split()[1]) if found.startswith(b"HTTP/1.1 ") else 0


def fuzz(port: int, count: int, honest: list[bytes], seed: int) -> Counter[tuple[str, int]]:
    """How often each kind of broken request, 8 at once, got each status."""
    vandal, found = Vandal(honest, seed), Counter[tuple[str, int]]()
    with ThreadPoolExecutor(8) as callers:
        while left := count - found.total():  # few at a time, for some are large
            requests = [vandal.request() for _ in range(min(left, 500))]
            statuses = callers.map(lambda broken: status_of(port, broken), requests)
            found.update(
                (request.kind, status) for request, status in zip(requests, statuses, strict=True)
            )
    return found
