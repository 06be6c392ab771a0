"""Who may do what: tokens, client certificates, and refusals.

Every user may do everything that is not denied: a test says what it wants refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

ANY = "*"


@dataclass(frozen=True, slots=True)
class Denial:
    """What is refused, and to whom; `ANY` is everything. `resource` is a plural, `pods`, or `pods/portforward`."""

    verb: str
    resource: str
    namespace: str = ANY
    user: str = ANY

    def covers(self, verb: str, resource: str, namespace: str, user: str) -> bool:
        """It refuses this."""
        asked = (verb, resource, namespace, user)
        mine = (self.verb, self.resource, self.namespace, self.user)
        return all(one in (ANY, other) for one, other in zip(mine, asked, strict=True))


@dataclass(slots=True)
class Access:
    """The users' tokens and what is denied to them."""

    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    denials: set[Denial] = field(default_factory=set)

    def new_token(self, user: str) -> str:
        """A token that stands for a user until it expires."""
        token = secrets.token_urlsafe(24)
        self.tokens[token] = user
        return token

    def user(self, headers: Mapping[str, str], certificate_name: str) -> str | None:
        """Who asks: by its token, else by its certificate; None where neither is known."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme:
            return self.tokens.get(token.strip()) if scheme.lower() == "bearer" else None
        return certificate_name or None

    def allows(self, user: str, verb: str, resource: str, namespace: str) -> bool:
        """Nothing denies it."""
        return not any(denial.covers(verb, resource, namespace, user) for denial in self.denials)
