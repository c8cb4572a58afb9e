"""What the files that a configuration names have to hold, so that `check-config` finds what a start would refuse."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from gateway.config_bans import read_bans
from gateway.config_sections import Config, Listener
from gateway.errors import ConfigError
from gateway.net.tls import server_context


def content_faults(config: Config, file: str) -> list[ConfigError]:
    """Certificates that cannot be used with their keys, and mistakes in the bans file. A file that is not there is
    somebody else's fault (`file_faults`)."""
    return [*_certificates(config, file), *_bans(config)]


def _certificates(config: Config, file: str) -> Iterator[ConfigError]:
    sections: tuple[tuple[str, list[Listener]], ...] = (
        ("rpc", list(config.rpc.listeners)),
        ("long_link", list(config.long_link.listeners)),
        ("receipts", list(config.receipts.listeners)),
    )
    for section, listeners in sections:
        for index, listener in enumerate(listeners):
            cert_file, key_file = listener.cert_file, listener.key_file
            if cert_file is None or key_file is None or not (cert_file.is_file() and key_file.is_file()):
                continue
            try:
                server_context(str(cert_file), str(key_file))
            except (OSError, ssl.SSLError) as error:
                wanted = f"a certificate that belongs to key_file ({error})"
                yield ConfigError(f"{section}.listeners[{index}].cert_file", str(cert_file), wanted, file=file)


def _bans(config: Config) -> Iterator[ConfigError]:
    path = config.long_link.bans_file
    if path is None or not path.is_file():
        return
    try:
        read_bans(path, [app.key for app in config.apps])
    except ConfigError as error:
        yield error
