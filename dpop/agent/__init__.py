# SPDX-License-Identifier: Apache-2.0
"""The signing agent: one process holds the keys, and any number of programs have it sign their proofs.

As a program that has a proof signed:

- :func:`dpop.load_key` opens ``agent:NAME``, and ``--key agent:NAME`` does so at the command line;
  :class:`AgentKey` is that key.
- :class:`AgentTokens` is a token source: fresh access tokens of an account of the agent, without its refresh token.
- :class:`AgentClient` speaks to the agent: its status, its keys, lock and unlock.

As the agent, which ``dpop agent`` runs:

- :class:`Agent` holds keys and signs. :class:`KeyRules` is a key with what it may be used for, and
  :func:`read_rules` reads a file of them, as :class:`AgentRules`.
- :class:`AgentLogins` keeps the logins whose tokens it refreshes; :class:`AccountRules` says who may have them.
- :func:`agent_socket` is the place of the socket; :func:`listen` makes it, or takes that of systemd.
- :func:`password_from_askpass` asks for a password in a window.
- :class:`AuditLog` puts each signature on record; :func:`protect_memory` keeps other programs of the user out of it.
- :data:`Ask` is a function that asks for the password or PIN of a key.

The guide is docs/agent.md; the protocol, for agents and clients in other languages, is in docs/agent-protocol.md.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop.agent._askpass import password_from_askpass
    from dpop.agent._audit import AuditLog
    from dpop.agent._connection import AgentClient
    from dpop.agent._held import Ask
    from dpop.agent._key import AgentKey
    from dpop.agent._listening import listen
    from dpop.agent._logins import AgentLogins
    from dpop.agent._place import agent_socket
    from dpop.agent._process import protect_memory
    from dpop.agent._rules import AccountRules, AgentRules, KeyRules, read_rules
    from dpop.agent._server import Agent
    from dpop.agent._tokens import AgentTokens

__all__ = [
    "AccountRules",
    "Agent",
    "AgentClient",
    "AgentKey",
    "AgentLogins",
    "AgentRules",
    "AgentTokens",
    "Ask",
    "AuditLog",
    "KeyRules",
    "agent_socket",
    "listen",
    "password_from_askpass",
    "protect_memory",
    "read_rules",
]

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "dpop.agent._askpass": ("password_from_askpass",),
        "dpop.agent._audit": ("AuditLog",),
        "dpop.agent._connection": ("AgentClient",),
        "dpop.agent._held": ("Ask",),
        "dpop.agent._key": ("AgentKey",),
        "dpop.agent._listening": ("listen",),
        "dpop.agent._logins": ("AgentLogins",),
        "dpop.agent._place": ("agent_socket",),
        "dpop.agent._process": ("protect_memory",),
        "dpop.agent._rules": ("AccountRules", "AgentRules", "KeyRules", "read_rules"),
        "dpop.agent._server": ("Agent",),
        "dpop.agent._tokens": ("AgentTokens",),
    },
)
