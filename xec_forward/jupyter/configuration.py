"""`c.ForwardMagics` and `%config ForwardMagics`: a default for every option, for the lines that do not say otherwise.

    c.InteractiveShellApp.extensions = ["xec_forward"]      # in ipython_config.py or ipython_kernel_config.py
    c.ForwardMagics.hold = 60
    c.ForwardMagics.host_key = "strict"

The traits are made from the options (`xec_forward.options`) when somebody asks for them, and their values are read by
the rules of the line. None: no default of one's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import traitlets

from ..errors import ConfigError, SpecError
from ..line.defaults import Defaults, flags_with_default, read_default, read_defaults

if TYPE_CHECKING:
    from ..line import Line
    from ..line.flags import Flag
    from ..options import Target

WHERE = "ForwardMagics"


class Default(traitlets.TraitType[Any, Any]):
    """The default of one option.

    A value that is none is refused with one line. Where it comes from a file that is being loaded, the magics are
    there all the same, and each line that would open something says it.
    """

    allow_none = True
    default_value = None

    def __init__(self, flag: Flag) -> None:
        super().__init__(default_value=None, allow_none=True, help=flag.help)
        self.flag = flag
        self.tag(config=True)

    def set(self, obj: Any, value: object) -> None:
        """See TraitType."""
        obj.refused.pop(self.name, None)
        super().set(obj, value)

    def validate(self, obj: Any, value: object) -> object:
        """See TraitType."""
        try:
            read_default(self.flag, value)
        except SpecError as error:
            problem = ConfigError(error.message, hop=WHERE, hint=error.hint)
        else:
            return value
        if obj.loaded:
            raise problem
        obj.refused[self.name] = problem
        return None

    def info(self) -> str:
        """See TraitType."""
        return self.flag.metavar or "True or False"


def declare(cls: type[traitlets.HasTraits]) -> None:
    """Give a class its traits, one for each option. Idempotent."""
    traits = {name: Default(flag) for name, flag in flags_with_default().items()}
    if all(name in vars(cls) for name in traits):
        return
    for name, trait in traits.items():
        setattr(cls, name, trait)
    # What the metaclass does with a class's own traits, again.
    type(cls).setup_class(cls, dict(vars(cls)))


def values_of(magics: traitlets.HasTraits) -> Mapping[str, object]:
    """The defaults that were set."""
    return {name: value for name, value in magics.trait_values(config=True).items() if value is not None}


def defaulted(
    line: Line, values: Mapping[str, object], refused: Mapping[str, ConfigError], made: Collection[Target]
) -> Line:
    """A line with the defaults in it.

    Args:
        refused: what a file has set and is no default.
        made: targets made in Python, which are used as they are.

    Raises:
        ConfigError: there is one of those.
    """
    for problem in refused.values():
        raise ConfigError(problem.message, hop=problem.hop, hint=problem.hint)
    return (read_defaults(values) if values else Defaults()).applied(line, made)
