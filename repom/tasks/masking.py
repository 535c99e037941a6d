"""Takes passwords out of the configuration that Invoke's `--debug` prints."""

from __future__ import annotations

import logging
import re

#: The settings `database_url` and `pull_url` in the `repr` of a dictionary.
_SETTING = re.compile(r"""(['"](?:database|pull)_url['"]: )('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""")
#: User and password of any other URL.
_URL = re.compile(r"(://[^\s:/@'\"]*:)[^\s'\"]*@")


class Masking(logging.Filter):
    """Masks passwords of URLs in log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        masked = _URL.sub(r"\1***@", _SETTING.sub(r"\1'***'", said))
        if masked != said:
            record.msg, record.args = masked, None
        return True


def install() -> None:
    """Mask what Invoke logs. Call it at import: Invoke logs before a task begins."""
    log = logging.getLogger("invoke")
    if not any(isinstance(each, Masking) for each in log.filters):
        log.addFilter(Masking())
