"""What is compiled, and what it computes, is what it was: see `fingerprints.py`, whose command renews what is stored."""

import fingerprints
import pytest
from fingerprints import PAIRS, differences, machine, of_pair, versions

STORED = fingerprints.stored()
LONG = ("lstm", "transformer")
mostly_quick = [pytest.param(pair, marks=pytest.mark.slow) if pair[0] in LONG else pair for pair in PAIRS]


@pytest.mark.parametrize("pair", mostly_quick, ids="/".join)
def test_nothing_has_moved(pair):
    known = {
        group: STORED[group][key]["/".join(pair)]
        for group, key in (("program", versions()), ("machine", machine()))
        if key in STORED[group]
    }
    if not known:
        pytest.skip(f"no fingerprints are stored for {versions()}: python tests/fingerprints.py --renew")
    found = of_pair(*pair)
    assert {group: differences(known[group], found[group]) for group in known} == {group: [] for group in known}


@pytest.mark.slow
def test_another_step_has_another_fingerprint():
    model, plain, heun = "mlp_with_penalties", "sgd", "heun"
    one, other = of_pair(model, plain), of_pair(model, heun)
    for group in ("program", "machine"):
        assert differences(one[group], other[group]) == sorted(one[group])
        assert differences(one[group], one[group]) == []
