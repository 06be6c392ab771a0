"""The call that reads a Kubernetes Secret through the engine; what it brings is kept nowhere else."""

from __future__ import annotations

from ..errors import ForwardError
from ..model import Done, Report, Revealed
from .call import BlockingCall


class SecretCall(BlockingCall):
    """A call that `Revealed` answers.

    Attributes:
        value: the secret, once the call has ended.
    """

    value: str = ""

    def deliver(self, message: Report | ForwardError) -> None:
        if isinstance(message, Revealed):
            self.value, message = message.value, Done(self.number)
        super().deliver(message)
