"""A damaged run is refused or comes back true; a malformed command is a sentence."""

import random

import pytest

from tests import gpt_faults as faults


@pytest.mark.parametrize(
    ("part", "count"), [(faults.corruptions, 21), (faults.commands, 100)]
)
def test_nothing_is_lost(tmp_path, part, count):
    outcomes = part(tmp_path, random.Random(1), count)
    assert outcomes.total() == count
    assert not [outcome for outcome in outcomes if "LOST" in outcome[1]]
