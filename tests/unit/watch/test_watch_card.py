"""The card as bytes: same in, same out; damage, other models and nonsense are refused."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from edgehone.bundle.card import build_card
from edgehone_agent.errors import BundleError
from edgehone_agent.wire.card import BINS, MAX_CARD_BYTES, MAX_CHANNELS, Card, Channel, Origin

from .conftest import DIGEST


def signed(content: bytes) -> bytes:
    """With the checksum made right again."""
    return content[:-4] + struct.pack("<I", zlib.crc32(content[:-4]))


def test_a_card_survives_the_way_through_bytes(table_card: Card) -> None:
    content = table_card.to_bytes()
    read = Card.from_bytes(content)
    assert read.to_bytes() == content
    assert read.digest == table_card.digest
    assert read.channels == table_card.channels
    assert (read.model_digest, read.kind, read.input_shape) == (DIGEST, "regression", (6,))
    assert (read.counts == table_card.counts).all()
    assert (read.whitening == table_card.whitening).all()


def test_the_largest_card_has_six_kilobytes_at_most() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((500, 5)).astype(np.float32)
    x, hidden = rng.standard_normal((500, 20)), rng.standard_normal((500, 64))
    card = build_card(x, y, hidden, kind="classification", model_digest=DIGEST)
    assert len(card.channels) == MAX_CHANNELS
    assert len(card.to_bytes()) <= MAX_CARD_BYTES


def test_every_changed_byte_is_refused(table_card: Card) -> None:
    content = table_card.to_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        with pytest.raises(BundleError):
            Card.from_bytes(bytes(damaged))


@pytest.mark.parametrize("size", [0, 3, 60, 75, 1_000])
def test_a_card_that_is_cut_off_is_refused(table_card: Card, size: int) -> None:
    with pytest.raises(BundleError):
        Card.from_bytes(table_card.to_bytes()[:size])
    with pytest.raises(BundleError):
        Card.from_bytes(signed(table_card.to_bytes()[: size + 4]))


def test_a_newer_version_says_so(table_card: Card) -> None:
    content = bytearray(table_card.to_bytes())
    content[4] = 2
    with pytest.raises(BundleError, match="version 2"):
        Card.from_bytes(signed(bytes(content)))


def test_values_that_cannot_be_are_refused(table_card: Card) -> None:
    falling = table_card.edges[:, ::-1]
    nonsense = [
        replace(table_card, gap=0),
        replace(table_card, tolerance=0.7),
        replace(table_card, tolerance=float("nan")),
        replace(table_card, edges=falling),
        replace(table_card, counts=np.zeros((len(table_card.channels), BINS), dtype=np.uint16)),
        replace(table_card, scale=np.zeros_like(table_card.scale)),
        replace(table_card, input_shape=(7,)),
        replace(table_card, channels=(Channel(Origin.OUTPUT, 1), *table_card.channels[1:])),
    ]
    for card in nonsense:
        with pytest.raises(BundleError, match="cannot be"):
            Card.from_bytes(card.to_bytes())


def test_an_unknown_channel_or_kind_is_refused(table_card: Card) -> None:
    content = table_card.to_bytes()
    place = content.index(bytes([Origin.DISTANCE, 0, Origin.OUTPUT, 0]))
    with pytest.raises(BundleError):
        Card.from_bytes(signed(content[:place] + b"\xee" + content[place + 1 :]))
    with pytest.raises(BundleError):
        Card.from_bytes(signed(content[:6] + b"\x09" + content[7:]))


def test_a_card_belongs_to_one_model(table_card: Card) -> None:
    table_card.check_model(DIGEST)
    with pytest.raises(BundleError, match="belongs to model 5a5a5a5a5a5a and not to 0000"):
        table_card.check_model("0" * 64)
