"""Products in tile registers are right, and a row's are the same bits whatever other rows are computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.cpu.test_products_properties import assert_close, random_numbers
from helpers.cpu_kernels import dots
from helpers.samples import sampled, thinned
from lookahead.backends.cpu.kernels import amx, vectors
from lookahead.backends.cpu.kernels.products import UNIT

pytestmark = pytest.mark.skipif(
    not amx.may_use_tiles(), reason="the processor or the operating system gives no tile registers"
)
seeds = st.integers(0, 2**32)
widths = st.integers(1, 1400 // 32).map(lambda count: 32 * count)
"""One block of the width, or several with more than 64 rows."""
NOT_FINITE = [torch.nan, torch.inf, -torch.inf]


def in_tiles(weights, inputs, splits=None):
    return dots(weights, inputs, splits, uses_tiles=True)


def bfloat16s(seed, *shape):
    return random_numbers(seed, torch.bfloat16, *shape)


@pytest.mark.matrix
@pytest.mark.parametrize("rows", sampled(range(1, 71), [1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 70]))
def test_every_count_of_rows(rows):
    weights, inputs = bfloat16s(rows, 75, 96), bfloat16s(rows + 50, rows, 96)
    together = in_tiles(weights, inputs)
    assert_close(together, weights, inputs)
    for row in range(rows):
        assert torch.equal(in_tiles(weights, inputs[row : row + 1])[0], together[row])


@pytest.mark.matrix
@pytest.mark.parametrize("outputs", thinned([*range(16, 36), 47, 48, 63, 64, 65, 80, 95, 131], 3))
@pytest.mark.parametrize("rows", [1, 17, 66])
def test_every_count_of_outputs(rows, outputs):
    weights, inputs = bfloat16s(outputs, outputs, 1344), bfloat16s(rows, rows, 1344)
    together = in_tiles(weights, inputs)
    assert_close(together, weights, inputs)
    assert torch.equal(in_tiles(weights, inputs[-1:])[0], together[-1])


@settings(max_examples=150)
@given(seeds, st.integers(1, 150), st.integers(16, 100), widths, st.data())
def test_products_of_any_shape(seed, rows, outputs, width, data):
    weights, inputs = bfloat16s(seed, outputs, width), bfloat16s(seed + 1, rows, width)
    together = in_tiles(weights, inputs)
    assert_close(together, weights, inputs)
    some = sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    assert torch.equal(in_tiles(weights, inputs[some].contiguous()), together[some])


@given(seeds, st.sampled_from([1, 9, 70]), st.integers(16, 300), widths, st.data())
def test_how_units_are_shared_out_changes_no_bit(seed, rows, outputs, width, data):
    weights, inputs = bfloat16s(seed, outputs, width), bfloat16s(seed + 1, rows, width)
    splits = data.draw(st.lists(st.integers(0, -(-outputs // UNIT)), max_size=5))
    assert torch.equal(in_tiles(weights, inputs, splits), in_tiles(weights, inputs))


@given(seeds, st.integers(2, 90), st.integers(17, 80), widths, st.data())
def test_other_rows_of_inputs_and_weights_may_be_anything(seed, rows, outputs, width, data):
    weights, inputs = bfloat16s(seed, outputs, width), bfloat16s(seed + 1, rows, width)
    before = in_tiles(weights, inputs)
    spoilt = torch.tensor(sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1))))
    unlike = torch.tensor(sorted(data.draw(st.sets(st.integers(0, outputs - 1), min_size=1))))
    inputs[spoilt] = data.draw(st.sampled_from(NOT_FINITE))
    weights[unlike] = data.draw(st.sampled_from(NOT_FINITE))
    after = in_tiles(weights, inputs)
    sound = torch.ones_like(before, dtype=torch.bool)
    sound[spoilt], sound[:, unlike] = False, False
    assert torch.equal(after[sound], before[sound])
    assert not after[~sound].isfinite().any()


@given(seeds, st.integers(1, 80), widths, st.sampled_from(NOT_FINITE), st.data())
def test_what_is_not_finite_is_what_it_is_in_double_precision(seed, rows, width, number, data):
    weights, inputs = bfloat16s(seed, 20, width), bfloat16s(seed + 1, rows, width)
    inputs[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, width - 1))] = number
    weights[data.draw(st.integers(0, 19)), data.draw(st.integers(0, width - 1))] = 0.0
    found, exact = in_tiles(weights, inputs), inputs.double() @ weights.double().T
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(found), kind(exact))


def test_a_configuration_has_eight_registers_of_sixteen_rows():
    configuration = amx.tile_configuration()
    assert configuration.nbytes == 64
    assert configuration[0] == 1  # the palette
    assert configuration[16:32].view("<u2").tolist() == [64] * 8
    assert configuration[48:56].tolist() == [16] * 8
    assert not configuration[1:16].any()
    assert not configuration[32:48].any()
    assert not configuration[56:].any()


@pytest.mark.parametrize("missing", ["amx-tile", "amx-bf16"])
def test_a_processor_that_lacks_a_feature_has_no_tiles(missing, monkeypatch):
    has_feature = vectors.has_feature
    monkeypatch.setattr(vectors, "has_feature", lambda name: name != missing and has_feature(name))
    assert not amx.has_tile_instructions()
    assert not amx.may_use_tiles.__wrapped__()


@pytest.mark.parametrize(("system", "machine"), [("Windows", "AMD64"), ("Linux", "aarch64")])
def test_other_systems_give_no_tiles(system, machine, monkeypatch):
    monkeypatch.setattr(amx.platform, "system", lambda: system)
    monkeypatch.setattr(amx.platform, "machine", lambda: machine)
    assert not amx.may_use_tiles.__wrapped__()


def test_a_system_that_refuses_gives_no_tiles(monkeypatch):
    class Refusing:
        def syscall(self, *_arguments):
            return -1

    monkeypatch.setattr(amx.ctypes, "CDLL", lambda *_arguments, **_settings: Refusing())
    assert not amx.may_use_tiles.__wrapped__()
