"""Files that other systems read, made from one GGUF file: weights in other formats, metadata as it is."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from lookahead.files import atomic_write

FORMATS = {
    "F16": (GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "BF16": (GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "Q8_0": (GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_MADE_BY_WRITER = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")
_FILE_TYPE = "general.file_type"


def converted_file(source: Path, kind: str, folder: Path) -> Path:
    """Return a file with all matrices in another format, which is made if it is not there.

    Args:
        source: A GGUF file.
        kind: F16, BF16 or Q8_0.
        folder: Where to put it.
    """
    target = folder / f"{source.stem}-{kind}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            _write(GGUFReader(source), partial, kind)
    return target


def _write(reader: GGUFReader, target: Path, kind: str) -> None:
    tensor_kind, file_type = FORMATS[kind]
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name in _MADE_BY_WRITER:
            continue
        value, of_elements = field.contents(), None
        if field.types[0] is GGUFValueType.ARRAY:
            of_elements = field.types[-1]
        if name == _FILE_TYPE:
            value = int(file_type)
        writer.add_key_value(name, value, field.types[0], sub_type=of_elements)
    for name, numbers in _numbers(reader):
        wanted = tensor_kind if numbers.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(numbers, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _numbers(reader: GGUFReader) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        yield tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
