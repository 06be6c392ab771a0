"""Keys that live in hardware: what a PKCS#11 provider offers, and what security keys need. Both are asyncssh's extras.

An agent that holds such a key needs neither, and so does a live `ssh` master: see docs/authentication.md.
"""

from __future__ import annotations

import importlib.util
import os

import asyncssh

FIDO2 = "pip install 'asyncssh[fido2]'"
PKCS11 = "pip install 'asyncssh[pkcs11]'"


def security_key_trouble(public: asyncssh.SSHKey) -> str:
    """Why a security key (`sk-...`, OpenSSH's PROTOCOL.u2f) could not sign here, or ""."""
    if public.algorithm.startswith(b"sk-") and importlib.util.find_spec("fido2") is None:
        return f"security keys need {FIDO2}, or the ssh-agent"
    return ""


def provider_trouble(provider: str) -> str:
    """Why the keys of a PKCS#11 provider cannot be used here, or ""."""
    if not os.path.exists(provider):
        return f"the PKCS11Provider {provider} is not there"
    if importlib.util.find_spec("pkcs11") is None:
        return f"PKCS11Provider needs {PKCS11}, or the ssh-agent (ssh-add -s {provider})"
    return ""


def provider_keys(provider: str, pin: str) -> list[asyncssh.SSHKeyPair]:
    """The keys of a provider's tokens. Blocks; a token may ask for a touch.

    Raises:
        ValueError: the library or a token refuses; its text says so without the PIN.
    """
    from pkcs11 import TokenFlag, lib

    keys: list[asyncssh.SSHKeyPair] = []
    try:
        # Not all at once: one slot with an empty token would spoil it for the others.
        for token in lib(provider).get_tokens(token_flags=TokenFlag.TOKEN_INITIALIZED):
            keys += asyncssh.load_pkcs11_keys(provider, pin, load_certs=False, token_serial=token.serial)
        return keys
    except Exception as error:  # the binding has a tree of errors of its own, with empty texts
        raise ValueError(f"PKCS11Provider {provider}: {type(error).__name__}") from error
