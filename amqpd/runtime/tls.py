"""What all TLS listeners share: certificate, key, authorities."""

from __future__ import annotations

import ssl
from pathlib import Path

from amqpd.config import Config
from amqpd.exit_codes import EX_NOINPUT
from amqpd.runtime.certificate import certificate_end_s
from amqpd.runtime.settings import ConfigError


def server_context(config: Config) -> ssl.SSLContext:
    """For all TLS listeners. Raises ConfigError for files that cannot be used."""
    assert config.tls_certificate is not None
    certificate, key = config.tls_certificate, config.tls_key
    for option, name in (
        ("--tls-certificate", certificate),
        ("--tls-key", key),
        ("--tls-ca", config.tls_ca),
    ):
        if name is not None:
            _check_readable(option, name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        pair = certificate if key is None else f"{certificate} and {key}"
        raise ConfigError(
            f"{pair} cannot be used for TLS ({error.reason or error}): "
            "give a certificate chain and its private key as PEM"
        ) from error
    if config.tls_ca is not None:
        try:
            context.load_verify_locations(config.tls_ca)
        except ssl.SSLError as error:
            raise ConfigError(
                f"{config.tls_ca} holds no certificates ({error.reason or error}): give PEM"
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def read_certificate_end_s(config: Config) -> float | None:
    """When the certificate ends, in seconds since 1970; None where the file does not say."""
    assert config.tls_certificate is not None
    try:
        return certificate_end_s(Path(config.tls_certificate).read_text())
    except (OSError, ValueError):
        return None


def _check_readable(option: str, name: str) -> None:
    try:
        Path(name).open("rb").close()
    except OSError as error:
        text = f"cannot read {name} ({error.strerror}): give a file that is there with {option}"
        raise ConfigError(text, EX_NOINPUT) from error


def _refuse_password() -> str:
    """OpenSSL would ask on the terminal."""
    raise ConfigError("the TLS key is encrypted: give one without a passphrase with --tls-key")
