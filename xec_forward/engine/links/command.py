"""The command link: any command that opens a local port (`aws ssm`, `gcloud`, `cloudflared`, `tsh`, `ssh -L`).

    --command "aws ssm start-session ... localPortNumber=%p"

`%p` becomes a free port (and `%%` a percent sign, as in ssh_config(5)); the command listens on it on loopback, and
each channel is one TCP connection to it. Where that leads is the command's own affair: the `connect` of `open_channel`
only names it in messages. The link is lost when the command ends.

A listener is trusted at once when a process of the command's own group has it; after a while, the command alive, when
it is another one of the same user's or root's (docker, a daemon that the command talks to); another user's never is.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
from collections.abc import Hashable

from ...errors import ClosedError, ConfigError, DeadlineError, ForwardError, LostError
from ...spec import Endpoint
from ..program import Ending, Program, name_of
from ..sock_diag import GONE
from .base import Channel, ChannelProtocol, HalfClose, Link, Opening
from .local_port import find_listener, give_back, is_of_group, listener, met_itself, reserve
from .tcp import TcpStream

# Seconds until the command must listen; some log in over the network first.
LISTEN_DEADLINE = 25.0
CHANNEL_DEADLINE = 25.0
# How long a listener outside the command's process group must have been there to be believed.
OUTSIDER_GRACE = 2.0
# How often the port is looked at while the command starts.
_LOOK_EVERY = 0.02
# Tries, each with another port, when somebody was faster.
_TRIES = 3
# sh's exit codes (POSIX, Shell Command Language, 2.8.2): found but not executable, not found
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127


def identity(command: str) -> Hashable:
    """What makes two command links the same: the text, before `%p` is replaced."""
    return ("command", command)


def with_port(command: str, port: int) -> str:
    """The command with its local port.

    >>> with_port("ssh -NL %p:pg.vpc:5432 bastion", 40000)
    'ssh -NL 40000:pg.vpc:5432 bastion'

    Raises:
        ConfigError: it has no place for one.
    """
    if "p" not in re.findall("%([%p])", command):
        raise ConfigError(
            "the command does not say where its local port belongs",
            hop=name_of(command),
            hint="Write %p there, as in ssh -NL %p:pg.vpc:5432 bastion",
        )
    return re.sub("%([%p])", lambda found: "%" if found[1] == "%" else str(port), command)


async def dial(command: str, opening: Opening, *, timeout: float = LISTEN_DEADLINE) -> CommandLink:
    """Start the command and wait until it listens. Cancelling it ends the command.

    Args:
        command: with `%p`.
        opening: shown the step "command".
        timeout: seconds until it must listen.

    Raises:
        ConfigError: no `%p`, or the shell finds no such command.
        DeadlineError: it runs, and does not listen.
        LostError: it ended before it listened, or somebody else was faster with every port it was given.
        EngineError: no process could be started.
    """
    with_port(command, 0)
    end = asyncio.get_running_loop().time() + timeout
    tries = 0
    with opening.step("command"):
        while True:
            tries += 1
            try:
                return await _dial(command, end, timeout)
            except _Taken as taken:
                if tries == _TRIES:
                    raise LostError(str(taken), hop=name_of(command)) from None


async def _dial(command: str, end: float, timeout: float) -> CommandLink:
    """One try, with a port of its own."""
    port = reserve()
    try:
        program = await Program.start(with_port(command, port), name_of(command))
    except BaseException:
        give_back(port)
        raise
    program.ended.add_done_callback(lambda _: give_back(port))
    try:
        return CommandLink(program, await _until_listening(program, port, end, timeout), port)
    except BaseException:
        program.end()
        raise


async def _until_listening(program: Program, port: int, end: float, timeout: float) -> str:
    """Wait until the command listens; the address it listens on."""
    loop = asyncio.get_running_loop()
    outsider_since = 0.0
    while True:
        if program.ended.done():
            raise _ended_early(program.name, program.ended.result())
        found = await find_listener(port)
        if found is None:
            outsider_since = 0.0
        elif found.owner is None or await asyncio.to_thread(is_of_group, found.owner.inode, program.group):
            return found.host
        elif found.owner.uid not in (0, os.geteuid()):
            raise _Taken(f"another user's program took port {port} before the command could")
        elif not outsider_since:
            outsider_since = loop.time()
        elif loop.time() - outsider_since >= OUTSIDER_GRACE:
            return found.host
        if loop.time() >= end:
            raise DeadlineError(
                _with_last_words(f"the command runs, and does not listen after {timeout:g} s", program),
                hop=program.name,
                hint="Does it listen on 127.0.0.1, on the port that %p stands for? --timeout S allows more time",
            )
        await asyncio.wait([program.ended], timeout=_LOOK_EVERY)


class CommandLink(Link):
    """A command that runs and listens. Made by `dial`.

    Args:
        program: the command.
        host, port: where it listens.
    """

    half_close = HalfClose.NOW
    listens = False

    def __init__(self, program: Program, host: str, port: int) -> None:
        self.route = (program.name,)
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self.host = host
        self.port = port
        self.program = program
        self._streams: set[TcpStream] = set()
        program.ended.add_done_callback(lambda ended: self._lose(self._error(f"the command {ended.result()}")))

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link. A command that runs and no longer listens is ended, and the link lost: a dial starts it anew."""
        self._check()
        loop = asyncio.get_running_loop()
        stream = TcpStream(protocol, self.listening, self._streams.discard)
        try:
            async with asyncio.timeout(CHANNEL_DEADLINE):
                transport, _ = await loop.create_connection(lambda: stream, self.host, self.port)
        except TimeoutError:
            raise DeadlineError(
                f"the command did not accept within {CHANNEL_DEADLINE:g} s", hop=str(connect) or self.program.name
            ) from None
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                raise self._deaf() from error
            raise self._error(f"no connection to the command: {error.strerror or error}") from error
        if self.lost.done():
            stream.discard()
            self._check()
        if met_itself(transport):
            stream.discard()
            raise self._deaf()
        self._streams.add(stream)
        loop.call_soon(stream.release)
        return stream

    async def round_trip(self) -> float:
        """See Link. The sign of life is that the command runs and listens: a probe of ours would reach its target."""
        start = time.monotonic()
        self._check()
        if self.listening() is False:
            raise self._deaf()
        return time.monotonic() - start

    def listening(self) -> bool | None:
        """Whether the command's port is listened on; None where it cannot be told."""
        owner = listener(self.host, self.port)
        return None if owner is None else owner != GONE

    async def close(self) -> None:
        """See Link. Returns when the command's whole process group is gone."""
        self.abort()
        await self.program.wait_gone()

    def abort(self, reason: ForwardError | None = None) -> None:
        """See Link. The process group has a second between SIGTERM and SIGKILL; nobody waits for it."""
        self._lose(reason or ClosedError("the link was closed"))
        self.program.end()

    def _check(self) -> None:
        if self.lost.done():
            raise self._error("the command has ended")

    def _deaf(self) -> ForwardError:
        error = self._error(_with_last_words("the command runs, and no longer listens on its port", self.program))
        self._lose(error)
        self.program.end()
        return error

    def _error(self, text: str) -> LostError:
        return LostError(text, hop=self.program.name)

    def _lose(self, error: ForwardError) -> None:
        if not self.lost.done():
            for stream in list(self._streams):
                stream.lose(error)
            self.lost.set_result(error)


class _Taken(Exception):
    """Somebody else was faster with the port."""


def _with_last_words(text: str, program: Program) -> str:
    return f"{text}; its last words: {program.last_words}" if program.last_words else text


def _ended_early(name: str, ending: Ending) -> Exception:
    if "in use" in ending.last_words.lower():
        return _Taken(f"the command {ending}")
    if ending.status == _NOT_FOUND:
        hint = "Is it installed, and on the PATH that the kernel was started with?"
        return ConfigError(f"there is no such command: {ending.last_words or ending}", hop=name, hint=hint)
    if ending.status == _NOT_EXECUTABLE:
        return ConfigError(f"the command cannot be executed: {ending.last_words or ending}", hop=name)
    hint = "It must stay in the foreground, as ssh does without -f" if ending.status == 0 else "The log has all it said"
    return LostError(f"the command {ending}, before it listened", hop=name, hint=hint)
