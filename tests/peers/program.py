"""A program that a test needs beside it: a line says that it is there, and it ends when its standard input does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self


class Program:
    """It runs until the context ends.

    Attributes:
        told: its line.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] = MappingProxyType({})) -> None:
        self._process = subprocess.Popen(
            command, env=os.environ | dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.told = self._process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
