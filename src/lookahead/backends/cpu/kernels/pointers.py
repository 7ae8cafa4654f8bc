"""Raw memory in compiled functions: addresses become pointers, and pointers are loaded and stored.

A pointer's type says what it points to, so that one function serves float32 and bfloat16. Numba has no
bfloat16; a pointer to it is a pointer to uint16.
"""

import platform
from typing import Any

from llvmlite import ir
from numba import types

from lookahead.backends.cpu.kernels import vectors
from lookahead.jit import compiled, intrinsic_call


def _llvm_type(context: Any, pointer: types.CPointer) -> ir.Type:
    return context.get_value_type(pointer)


@compiled
def pointer_like(_typing: Any, address: types.Integer, like: types.CPointer) -> Any:
    """Return a pointer to an address, of the type of `like`."""

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], _llvm_type(context, signature.return_type))

    return like(address, like), generated


def _pointer_maker(pointed: types.Type) -> Any:
    @compiled
    def pointer(_typing: Any, address: types.Integer) -> Any:
        """Return a pointer to an address."""

        def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], _llvm_type(context, signature.return_type))

        return types.CPointer(pointed)(address), generated

    return pointer


float_pointer = _pointer_maker(types.float32)
bfloat16_pointer = _pointer_maker(types.uint16)
int_pointer = _pointer_maker(types.int64)


@compiled
def offset(_typing: Any, pointer: types.CPointer, elements: types.Integer) -> Any:
    """Return a pointer `elements` further on."""

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.int64), generated


@compiled
def load_int(_typing: Any, pointer: types.CPointer, index: types.Integer) -> Any:
    """Return the int64 at an index."""

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.gep(arguments[0], [arguments[1]]))

    return types.int64(pointer, types.int64), generated


@compiled
def store_int(_typing: Any, pointer: types.CPointer, index: types.Integer, number: types.Integer) -> Any:
    """Store an int64 at an index."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], builder.gep(arguments[0], [arguments[1]]))
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64), generated


@compiled
def take_next(_typing: Any, pointer: types.CPointer, index: types.Integer) -> Any:
    """Return the int64 at an index and add 1 to it, as one operation among threads.

    What a thread wrote before is seen by those that take a later number.
    """

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        place = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("add", place, vectors.INT64(1), "acq_rel")

    return types.int64(pointer, types.int64), generated


@compiled
def load_shared(_typing: Any, pointer: types.CPointer, index: types.Integer) -> Any:
    """Return the int64 at an index as another thread last wrote it, with all that it wrote before."""

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        place = builder.gep(arguments[0], [arguments[1]])
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(pointer, types.int64), generated


@compiled
def store_shared(_typing: Any, pointer: types.CPointer, index: types.Integer, number: types.Integer) -> Any:
    """Store an int64 that other threads read with `load_shared`."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        place = builder.gep(arguments[0], [arguments[1]])
        builder.store_atomic(arguments[2], place, "release", 8)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64), generated


@compiled
def load_float(_typing: Any, pointer: types.CPointer, index: types.Integer) -> Any:
    """Return the number at an index as a float32."""

    def generated(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        number = builder.load(builder.gep(arguments[0], [arguments[1]]))
        if not vectors.points_to_bfloat16(signature.args[0]):
            return number
        wide = builder.shl(builder.zext(number, vectors.INT32), ir.Constant(vectors.INT32, 16))
        return builder.bitcast(wide, vectors.FLOAT)

    return types.float32(pointer, types.int64), generated


@compiled
def store_float(_typing: Any, pointer: types.CPointer, index: types.Integer, number: types.Float) -> Any:
    """Store a float32 at an index, rounded to the type that is pointed to."""

    def generated(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, place, value = arguments
        if vectors.points_to_bfloat16(signature.args[0]):
            value = builder.trunc(vectors.bfloat16_bits(builder, value), ir.IntType(16))
        builder.store(value, builder.gep(target, [place]))
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.float32), generated


@compiled
def rounded_like(_typing: Any, number: types.Float, like: types.CPointer) -> Any:
    """Return a float32 rounded to the type that `like` points to."""

    def generated(_context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if not vectors.points_to_bfloat16(signature.args[1]):
            return arguments[0]
        bits = vectors.bfloat16_bits(builder, arguments[0])
        return builder.bitcast(builder.shl(bits, ir.Constant(vectors.INT32, 16)), vectors.FLOAT)

    return types.float32(types.float32, like), generated


@compiled
def exponential(_typing: Any, number: types.Float) -> Any:
    """Return e to the power of a float32."""

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return vectors.exponential(builder, arguments[0])

    return types.float32(types.float32), generated


@compiled
def larger(_typing: Any, first: types.Float, second: types.Float) -> Any:
    """Return the larger of two float32; of a number and a NaN, the second one."""

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return vectors.larger(builder, *arguments)

    return types.float32(types.float32, types.float32), generated


@compiled
def call_int(_typing: Any, address: types.Integer) -> Any:
    """Call a C function `int f(void)` and return its result."""

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(vectors.INT32, [])
        result = builder.call(builder.inttoptr(arguments[0], function.as_pointer()), [])
        return builder.sext(result, vectors.INT64)

    return types.int64(types.int64), generated


@compiled
def call_with(_typing: Any, address: types.Integer, arguments: types.CPointer) -> Any:
    """Call a C function that takes an address and returns nothing."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        given = builder.bitcast(values[1], ir.IntType(8).as_pointer())
        builder.call(builder.inttoptr(values[0], function.as_pointer()), [given])
        return context.get_dummy_value()

    return types.void(types.int64, arguments), generated


@compiled
def pause(_typing: Any) -> Any:
    """Tell the core that this thread waits for another one, where the processor has an instruction for it."""

    def generated(context: Any, builder: ir.IRBuilder, _signature: Any, _arguments: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            intrinsic_call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), generated


@compiled
def address_of(_typing: Any, pointer: types.RawPointer | types.CPointer) -> Any:
    """Return the address in a pointer."""

    def generated(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], vectors.INT64)

    return types.int64(pointer), generated


@compiled
def is_bfloat16(_typing: Any, pointer: types.CPointer) -> Any:
    """Return whether a pointer is to bfloat16, when it is compiled."""

    def generated(_context: Any, _builder: ir.IRBuilder, signature: Any, _arguments: Any) -> Any:
        return ir.Constant(ir.IntType(1), int(vectors.points_to_bfloat16(signature.args[0])))

    return types.boolean(pointer), generated
