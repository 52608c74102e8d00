"""The page: one file with all that it needs, and the rule that forbids it anything else."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("page.html")


@cache
def page() -> tuple[bytes, dict[str, str]]:
    """The page's content and its headers: only its own script and style, only this server."""
    content = _FILE.read_bytes()
    allowed = {
        name: " ".join(f"'sha256-{_digest(part)}'" for part in _inline(content, tag))
        for name, tag in (("script-src", b"script"), ("style-src", b"style"))
    }
    rule = "; ".join(
        [
            "default-src 'none'",
            *(f"{name} {digests}" for name, digests in allowed.items()),
            "img-src blob: data:",
            "connect-src 'self'",
            *(f"{name} 'none'" for name in ("base-uri", "form-action", "frame-ancestors")),
        ]
    )
    return content, {"Content-Security-Policy": rule, "Referrer-Policy": "no-referrer"}


def _inline(content: bytes, tag: bytes) -> list[bytes]:
    return re.findall(b"<%s>(.*?)</%s>" % (tag, tag), content, re.DOTALL)


def _digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
