"""Where the cursor stands on a line that is still being written: whatever is there, nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xec_forward.errors import SpecError
from xec_forward.jupyter.completion_place import find, place_in, words_of
from xec_forward.line import KUBERNETES, SSH, split

_pieces = st.sampled_from(
    [
        "%forward ",
        "%%k8s_forward ",
        "bastion",
        " ",
        "\n",
        "\\",
        "'",
        '"',
        "#",
        " # ",
        "--",
        "-",
        "--lazy",
        "-i",
        "-NTL",
        "--close ",
        "--password=",
        "env:",
        "@",
        "@sales ",
        "svc/",
        ":",
        "=",
        "x = ",
        "{",
        "$a",
        "-l app=api ",
        "é",
    ]
)
_lines = st.lists(_pieces, max_size=12).map("".join)


@given(_lines, st.data())
def test_any_text_has_a_place_or_none(text: str, data: st.DataObject) -> None:
    lines = text.split("\n")
    line = data.draw(st.integers(0, len(lines)))
    column = data.draw(st.integers(0, len(lines[line]) if line < len(lines) else 0))
    found = find(text, line, column)
    for dialect in (SSH, KUBERNETES):
        place = place_in(found.text if found is not None else text, dialect)
        assert place is None or place.raw == "" or text


@given(_lines)
@example('"\\%forward "')
@example('"a\\"b" "\\\\"')
def test_words_are_those_of_the_line(text: str) -> None:
    try:
        words = split(text)
    except SpecError:
        return
    read = words_of(f"{text} ")
    if read is not None:  # it ends in no comment
        assert [value for value, _ in read] == [*words, ""]


@pytest.mark.parametrize(
    ("text", "value", "field", "after"),
    [
        ("bastion --host-key as", "as", "host_key", ""),
        ("bastion --host-key=as", "as", "host_key", "--host-key"),
        ("bastion -i 'a b", "a b", "private_key", ""),
        ("bastion -ikey", "key", "private_key", ""),
        ("bastion -NTi ", "", "private_key", ""),
        ("bastion -NTL ", "", "", "-L"),
        ("bastion --lazy ", "", "", ""),
        ("-- -i", "-i", "", ""),
    ],
)
def test_value_belongs_to_its_option(text: str, value: str, field: str, after: str) -> None:
    place = place_in(text, SSH)
    assert place is not None
    assert (place.value, place.flag.field if place.flag else "", place.after) == (value, field, after)


def test_line_of_a_magic_is_found_wherever_it_stands() -> None:
    for text, line, written, head in (
        ("%forward bas", 0, "bas", None),
        ("x = 1\npg, _ = %k8s_forward svc", 1, "svc", None),
        ("    %forward a \\\n b", 1, "a  ", None),
        ("\n%%forward bastion\n\npg.v", 3, "pg.v", " bastion"),
    ):
        found = find(text, line, len(text.split("\n")[line]))
        assert found is not None
        assert found.text.strip().startswith(written.strip())
        assert found.head == head
    for text in ("%forwardx a", "print('%forward a", "forward bas", "# %forward a", "%forward"):
        assert find(text, 0, len(text)) is None
    assert find("x\n%%forward a", 1, 12) is None
