"""Invoke's `--debug` prints the configuration it reads: here without the passwords."""

from __future__ import annotations

import logging
import re

#: The setting that is a URL, in the representation of a dictionary.
_SETTING = re.compile(r"""(['"]database_url['"]: )('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""")
#: User and password of any other URL.
_URL = re.compile(r"(://[^\s:/@'\"]*:)[^\s'\"]*@")


class Masking(logging.Filter):
    """Takes passwords of URLs out of whatever is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        masked = _URL.sub(r"\1***@", _SETTING.sub(r"\1'***'", said))
        if masked != said:
            record.msg, record.args = masked, None
        return True


def install() -> None:
    """Mask what Invoke logs; it does so before a task begins, so this cannot wait for one."""
    log = logging.getLogger("invoke")
    if not any(isinstance(each, Masking) for each in log.filters):
        log.addFilter(Masking())
