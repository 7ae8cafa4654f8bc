"""A decoder's forward over draft trees, as every member of a team of threads does its share of it.

Layers of one shape: norm, attention with rotary positions and grouped queries, norm, gated units; what each
of them adds goes to a residual stream. Between two parts that need all of what came before the members meet.
"""

from functools import cache
from typing import Any, NamedTuple

from lookahead.backends.cpu.kernels.attention import (
    Heads,
    Trees,
    attend,
    attention_scratch,
    gather,
    sums_of_thread,
)
from lookahead.backends.cpu.kernels.elementwise import add_rounded, gate, normalize, rotate, store_with_bias
from lookahead.backends.cpu.kernels.pointers import (
    address_of,
    call,
    call_procedure,
    float_pointer,
    half_pointer,
    int_pointer,
    integer_at,
    moved,
    number_at,
    pointer_like,
    put,
)
from lookahead.backends.cpu.kernels.products import CHUNK, UNIT, dot_chunk, share_of, units_of
from lookahead.backends.cpu.plan import EPSILON, LAYER_FIELDS, SCALE, Field, LayerField
from lookahead.jit import log_if_slow, pointer_kernel, shared_kernel

_UNITS_OF_CHUNK = CHUNK // UNIT


class Member(NamedTuple):
    """One thread of a team.

    Attributes:
        table: pointer to the step's plan.
        layer: pointer to the current layer's part of the layers' table.
        number: the thread's, from 0 on.
        members: how many there are.
        scratch: pointer to float32, two chunks for every row or what attention needs.
        integers: address of int64, what attention needs of them.
    """

    table: Any
    layer: Any
    number: int
    members: int
    scratch: Any
    integers: int


@pointer_kernel
def _meet(member: Member) -> None:
    """Wait until all members have come this far."""
    if member.members > 1:
        call_procedure(integer_at(member.table, Field.BARRIER_AT))


@pointer_kernel
def _tokens(member: Member) -> int:
    tokens: int = integer_at(member.table, Field.ROWS) * integer_at(member.table, Field.NODES)
    return tokens


@pointer_kernel
def _normalize(member: Member, weight: Any) -> None:
    """Norm the residual stream into the inputs of the next products."""
    table = member.table
    hidden = integer_at(table, Field.HIDDEN)
    stream = float_pointer(integer_at(table, Field.STREAM_AT))
    inputs = pointer_like(integer_at(table, Field.INPUTS_AT), weight)
    epsilon = number_at(float_pointer(integer_at(table, Field.SCALARS_AT)), EPSILON)
    first, last = share_of(_tokens(member), member.number, member.members)
    for token in range(first, last):
        normalize(moved(stream, token * hidden), weight, moved(inputs, token * hidden), hidden, epsilon)


@pointer_kernel
def _project(
    member: Member, weights: Any, bias: Any, has_bias: bool, outputs: int, width: int, out: Any
) -> None:
    """Write out [tokens, outputs], the products of all inputs with a matrix, and the bias if there is one."""
    tokens = _tokens(member)
    inputs = pointer_like(integer_at(member.table, Field.INPUTS_AT), weights)
    unit, last = share_of(units_of(outputs), member.number, member.members)
    while unit < last:
        end = min(unit + _UNITS_OF_CHUNK, last)
        start, count = dot_chunk(weights, outputs, width, unit, end, inputs, tokens, member.scratch)
        for token in range(tokens):
            place = moved(out, token * outputs + start)
            store_with_bias(moved(member.scratch, token * CHUNK), moved(bias, start), has_bias, place, count)
        unit = end


@pointer_kernel
def _project_back(member: Member, weights: Any, inputs: Any, width: int) -> None:
    """Add the products of inputs [tokens, width] with a matrix to the residual stream."""
    table, tokens = member.table, _tokens(member)
    hidden = integer_at(table, Field.HIDDEN)
    stream = float_pointer(integer_at(table, Field.STREAM_AT))
    unit, last = share_of(units_of(hidden), member.number, member.members)
    while unit < last:
        end = min(unit + _UNITS_OF_CHUNK, last)
        start, count = dot_chunk(weights, hidden, width, unit, end, inputs, tokens, member.scratch)
        for token in range(tokens):
            products = moved(member.scratch, token * CHUNK)
            add_rounded(moved(stream, token * hidden + start), products, count, weights)
        unit = end


@pointer_kernel
def _open_gates(member: Member, gates: Any, ups: Any, out: Any) -> None:
    """Write out [tokens, inner], the gated units."""
    table, tokens = member.table, _tokens(member)
    hidden, inner = integer_at(table, Field.HIDDEN), integer_at(table, Field.INNER)
    inputs = pointer_like(integer_at(table, Field.INPUTS_AT), gates)
    second = moved(member.scratch, (tokens + 1) * CHUNK)
    unit, last = share_of(units_of(inner), member.number, member.members)
    while unit < last:
        end = min(unit + _UNITS_OF_CHUNK, last)
        start, count = dot_chunk(gates, inner, hidden, unit, end, inputs, tokens, member.scratch)
        dot_chunk(ups, inner, hidden, unit, end, inputs, tokens, second)
        for token in range(tokens):
            at = token * CHUNK
            gate(moved(member.scratch, at), moved(second, at), moved(out, token * inner + start), count)
        unit = end


@pointer_kernel
def _project_all(member: Member, like: Any) -> None:
    """Write queries, new keys and new values, not yet turned."""
    table, layer = member.table, member.layer
    hidden, width = integer_at(table, Field.HIDDEN), integer_at(table, Field.WIDTH)
    own, shared = integer_at(table, Field.HEADS) * width, integer_at(table, Field.KEY_HEADS) * width
    for part in range(3):
        outputs = own if part == 0 else shared
        bias = integer_at(layer, LayerField.QUERY_BIAS + part)
        out = pointer_like(integer_at(table, Field.QUERIES_AT + part), like)
        weights = pointer_like(integer_at(layer, LayerField.QUERY + part), like)
        _project(member, weights, pointer_like(bias, like), bias != 0, outputs, hidden, out)


@pointer_kernel
def _turn_head(member: Member, head: Any, norm_at: int, token: int, out: Any) -> None:
    """Norm a head if the model does, and write it turned to its token's position."""
    table = member.table
    width = integer_at(table, Field.WIDTH)
    if norm_at != 0:
        epsilon = number_at(float_pointer(integer_at(table, Field.SCALARS_AT)), EPSILON)
        normalize(head, pointer_like(norm_at, head), head, width, epsilon)
    cosine = moved(pointer_like(integer_at(table, Field.COSINES_AT), head), token * width)
    sine = moved(pointer_like(integer_at(table, Field.SINES_AT), head), token * width)
    rotate(head, cosine, sine, member.scratch, width)
    for index in range(width):
        put(out, index, number_at(member.scratch, index))


@pointer_kernel
def _turn_and_keep(member: Member, keys: Any, values: Any) -> None:
    """Turn the queries where they are, and the new keys into the cache; the new values go there as well."""
    table, layer = member.table, member.layer
    width, nodes = integer_at(table, Field.WIDTH), integer_at(table, Field.NODES)
    heads, key_heads = integer_at(table, Field.HEADS), integer_at(table, Field.KEY_HEADS)
    queries = pointer_like(integer_at(table, Field.QUERIES_AT), keys)
    new_keys = pointer_like(integer_at(table, Field.NEW_KEYS_AT), keys)
    new_values = pointer_like(integer_at(table, Field.NEW_VALUES_AT), keys)
    cache_rows = int_pointer(integer_at(table, Field.ROWS_AT))
    lengths = int_pointer(integer_at(table, Field.LENGTHS_AT))
    first, last = share_of(_tokens(member) * (heads + key_heads), member.number, member.members)
    for item in range(first, last):
        token, head = item // (heads + key_heads), item % (heads + key_heads)
        if head < heads:
            place = moved(queries, (token * heads + head) * width)
            _turn_head(member, place, integer_at(layer, LayerField.QUERY_NORM), token, place)
        else:
            head -= heads
            at = (token * key_heads + head) * width
            row = token // nodes
            slot = integer_at(lengths, row) + token % nodes
            to = integer_at(cache_rows, row) * integer_at(table, Field.ROW_STRIDE)
            to += head * integer_at(table, Field.HEAD_STRIDE) + slot * width
            _turn_head(
                member, moved(new_keys, at), integer_at(layer, LayerField.KEY_NORM), token, moved(keys, to)
            )
            for index in range(width):
                put(moved(values, to), index, number_at(new_values, at + index))


@pointer_kernel
def _trees(member: Member) -> Trees:
    """Return the forward pass's trees as the current layer sees them."""
    table = member.table
    of_window = integer_at(member.layer, LayerField.WINDOW_INDEX) * _tokens(member)
    return Trees(
        integer_at(table, Field.ROWS),
        integer_at(table, Field.NODES),
        int_pointer(integer_at(table, Field.ROWS_AT)),
        int_pointer(integer_at(table, Field.LENGTHS_AT)),
        int_pointer(integer_at(table, Field.DEPTHS_AT)),
        moved(int_pointer(integer_at(table, Field.FIRSTS_AT)), of_window),
        int_pointer(integer_at(table, Field.SLOTS_AT)),
        integer_at(table, Field.TAIL),
        integer_at(table, Field.SPANS),
    )


@pointer_kernel
def _attend(member: Member, keys: Any, values: Any) -> None:
    """Write to the inputs of the next products what all nodes attend to."""
    table = member.table
    trees = _trees(member)
    heads = Heads(
        pointer_like(integer_at(table, Field.QUERIES_AT), keys),
        keys,
        values,
        integer_at(table, Field.ROW_STRIDE),
        integer_at(table, Field.HEAD_STRIDE),
        integer_at(table, Field.HEADS),
        integer_at(table, Field.KEY_HEADS),
        integer_at(table, Field.WIDTH),
        number_at(float_pointer(integer_at(table, Field.SCALARS_AT)), SCALE),
    )
    sums = sums_of_thread(
        float_pointer(integer_at(table, Field.TOTALS_AT)),
        float_pointer(integer_at(table, Field.STATES_AT)),
        heads,
        member.scratch,
        member.integers,
    )
    attend(trees, heads, sums, member.number, member.members)
    _meet(member)
    out = pointer_like(integer_at(table, Field.INPUTS_AT), keys)
    gather(trees, heads, sums, out, member.number, member.members)


@pointer_kernel
def _layer(member: Member, number: int, like: Any) -> None:
    """Do one decoder layer."""
    table, layer = member.table, member.layer
    apart = number * integer_at(table, Field.LAYER_STRIDE)
    keys = moved(pointer_like(integer_at(table, Field.KEYS_AT), like), apart)
    values = moved(pointer_like(integer_at(table, Field.VALUES_AT), like), apart)
    _normalize(member, pointer_like(integer_at(layer, LayerField.NORM), like))
    _meet(member)
    _project_all(member, like)
    _meet(member)
    _turn_and_keep(member, keys, values)
    _meet(member)
    _attend(member, keys, values)
    _meet(member)
    like_inputs = pointer_like(integer_at(table, Field.INPUTS_AT), like)
    own = integer_at(table, Field.HEADS) * integer_at(table, Field.WIDTH)
    _project_back(member, pointer_like(integer_at(layer, LayerField.OUT), like), like_inputs, own)
    _meet(member)
    _normalize(member, pointer_like(integer_at(layer, LayerField.INNER_NORM), like))
    _meet(member)
    gated = pointer_like(integer_at(table, Field.GATED_AT), like)
    ups = pointer_like(integer_at(layer, LayerField.UP), like)
    _open_gates(member, pointer_like(integer_at(layer, LayerField.GATE), like), ups, gated)
    _meet(member)
    downs = pointer_like(integer_at(layer, LayerField.DOWN), like)
    _project_back(member, downs, gated, integer_at(table, Field.INNER))
    _meet(member)


@pointer_kernel
def _place_in_team(table: Any) -> tuple[int, int, Any, int]:
    """Return a member's number, how many there are, and its own scratch and integers."""
    number, members = call(integer_at(table, Field.MEMBER_AT)), call(integer_at(table, Field.MEMBERS_AT))
    scratch = float_pointer(integer_at(table, Field.SCRATCH_AT))
    own = moved(scratch, number * integer_at(table, Field.SCRATCH_STRIDE))
    integers = integer_at(table, Field.INTEGERS_AT) + 8 * number * integer_at(table, Field.INTEGERS_STRIDE)
    return number, members, own, integers


@pointer_kernel
def _step(address: int, like: Any) -> None:
    """Do a member's share of a step."""
    table = int_pointer(address)
    number, members, own, integers = _place_in_team(table)
    layers = int_pointer(integer_at(table, Field.LAYERS_AT))
    for index in range(integer_at(table, Field.LAYERS)):
        _layer(
            Member(table, moved(layers, index * LAYER_FIELDS), number, members, own, integers), index, like
        )
    member = Member(table, layers, number, members, own, integers)
    _normalize(member, pointer_like(integer_at(table, Field.LAST_NORM_AT), like))
    _meet(member)
    weights = pointer_like(integer_at(table, Field.OUTPUT_AT), like)
    logits = pointer_like(integer_at(table, Field.LOGITS_AT), like)
    vocabulary, hidden = integer_at(table, Field.VOCABULARY), integer_at(table, Field.HIDDEN)
    _project(member, weights, weights, False, vocabulary, hidden, logits)


@pointer_kernel
def _attention(address: int, like: Any) -> None:
    """Do a member's share of one layer's attention, whose queries are turned and whose cache is complete."""
    table = int_pointer(address)
    number, members, own, integers = _place_in_team(table)
    layer = int_pointer(integer_at(table, Field.LAYERS_AT))
    keys = pointer_like(integer_at(table, Field.KEYS_AT), like)
    values = pointer_like(integer_at(table, Field.VALUES_AT), like)
    _attend(Member(table, layer, number, members, own, integers), keys, values)


@cache
def step_address(*, halves: bool) -> int:
    """Return the address of the function that does a member's share of the step whose table it is given.

    It is compiled when it is first asked for, which takes about ten seconds, once per installation.

    Args:
        halves: for bfloat16, else for float32.
    """
    with log_if_slow():
        return int(_in_bfloat16().address if halves else _in_float32().address)


@cache
def attention_address(*, halves: bool) -> int:
    """Return the address of the function that does a member's share of one layer's attention.

    It is compiled when it is first asked for, which takes seconds, once per installation.

    Args:
        halves: for bfloat16, else for float32.
    """
    with log_if_slow():
        return int(_attention_in_bfloat16().address if halves else _attention_in_float32().address)


def _in_bfloat16() -> Any:
    @shared_kernel
    def step_in_bfloat16(address: Any) -> None:
        _step(address_of(address), half_pointer(0))

    return step_in_bfloat16


def _in_float32() -> Any:
    @shared_kernel
    def step_in_float32(address: Any) -> None:
        _step(address_of(address), float_pointer(0))

    return step_in_float32


def _attention_in_bfloat16() -> Any:
    @shared_kernel
    def attention_in_bfloat16(address: Any) -> None:
        _attention(address_of(address), half_pointer(0))

    return attention_in_bfloat16


def _attention_in_float32() -> Any:
    @shared_kernel
    def attention_in_float32(address: Any) -> None:
        _attention(address_of(address), float_pointer(0))

    return attention_in_float32


def scratch_size(tokens: int, width: int) -> int:
    """Return how many float32 numbers each thread needs for itself."""
    return max(2 * (tokens + 1) * CHUNK, attention_scratch(width))
