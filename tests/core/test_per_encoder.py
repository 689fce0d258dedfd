"""What is kept of a text encoder: made once, no more than so many, and gone with the encoder."""

import gc
import weakref

from torch import nn

from unsee_core.per_encoder import PerEncoder


class _Value:
    pass


def test_a_value_is_made_once_for_an_encoder_and_a_key() -> None:
    kept: PerEncoder[_Value] = PerEncoder(2)
    encoder, other = nn.Identity(), nn.Identity()
    first = kept.get(encoder, "a", _Value)
    assert kept.get(encoder, "a", _Value) is first
    assert kept.get(encoder, "b", _Value) is not first
    assert kept.get(other, "a", _Value) is not first


def test_the_value_not_asked_for_the_longest_leaves_first() -> None:
    kept: PerEncoder[_Value] = PerEncoder(2)
    encoder = nn.Identity()
    first, second = kept.get(encoder, "a", _Value), kept.get(encoder, "b", _Value)
    assert kept.get(encoder, "a", _Value) is first
    kept.get(encoder, "c", _Value)
    assert kept.get(encoder, "a", _Value) is first
    assert kept.get(encoder, "b", _Value) is not second


def test_values_leave_with_their_encoder() -> None:
    kept: PerEncoder[_Value] = PerEncoder(2)
    encoder = nn.Identity()
    value = weakref.ref(kept.get(encoder, "a", _Value))
    del encoder
    gc.collect()
    assert value() is None
