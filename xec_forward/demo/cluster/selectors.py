"""Label and field selectors, as a list or a watch is asked with them.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .kinds import Body

Selector = Callable[[Body], bool]

# A comma ends a requirement unless it stands inside `in (a, b)`.
_REQUIREMENT = re.compile(r"\s*((?:[^,(]|\([^)]*\))+?)\s*(?:,|\Z)")
_SET = re.compile(r"(\S+)\s+(in|notin)\s*\(([^)]*)\)")
_EQUAL = re.compile(r"([^\s=!]+)\s*(==|=|!=)\s*(\S*)")
_FIELDS = {
    "metadata.name": ("metadata", "name"),
    "metadata.namespace": ("metadata", "namespace"),
    "status.phase": ("status", "phase"),
    "spec.nodeName": ("spec", "nodeName"),
}


def selector(labels: str, fields: str) -> Selector:
    """What picks an object by both selectors; "" picks all. Raises ValueError with the server's reason."""
    tests = [_label_test(requirement) for requirement in _REQUIREMENT.findall(labels)]
    tests += [_field_test(requirement) for requirement in _REQUIREMENT.findall(fields)]
    return lambda body: all(test(body) for test in tests)


def _label_test(requirement: str) -> Selector:
    if match := _SET.fullmatch(requirement):
        key, operator, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda body: _labels(body).get(key) in values
        return lambda body: _labels(body).get(key) not in values
    if match := _EQUAL.fullmatch(requirement):
        key, operator, value = match.groups()
        if operator == "!=":
            return lambda body: _labels(body).get(key) != value
        return lambda body: _labels(body).get(key) == value
    if re.fullmatch(r"![\w./-]+", requirement):
        return lambda body: requirement[1:] not in _labels(body)
    if re.fullmatch(r"[\w./-]+", requirement):
        return lambda body: requirement in _labels(body)
    raise ValueError(f"unable to parse requirement: {requirement!r}")


def _field_test(requirement: str) -> Selector:
    match = _EQUAL.fullmatch(requirement)
    if match is None or match[1] not in _FIELDS:
        raise ValueError(f"field label not supported: {match[1] if match else requirement}")
    section, field = _FIELDS[match[1]]
    operator, value = match[2], match[3]
    if operator == "!=":
        return lambda body: body.get(section, {}).get(field, "") != value
    return lambda body: body.get(section, {}).get(field, "") == value


def _labels(body: Body) -> dict[str, str]:
    labels: dict[str, str] = body["metadata"].get("labels", {})
    return labels
