#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a GGUF file again with its Q4_1 matrices as Q4_0: both programs of `make bench` read the result.

  requantize.py IN OUT      (needs gguf and numpy; OUT appears whole or not at all)
"""
import os
import sys
from pathlib import Path

import gguf

FROM, TO = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q4_0


def copy_fields(reader, writer):
    for field in reader.fields.values():
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue
        value = field.contents()
        if field.name == gguf.Keys.General.FILE_TYPE:
            value = int(gguf.LlamaFileType.MOSTLY_Q4_0)
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=sub_type)


def copy_tensor(tensor, writer):
    if tensor.tensor_type != FROM:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        return
    values = gguf.quants.dequantize(tensor.data, FROM)
    writer.add_tensor(tensor.name, gguf.quants.quantize(values, TO), raw_dtype=TO)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(Path, sys.argv[1:])
    reader = gguf.GGUFReader(source)
    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, reader.fields[gguf.Keys.General.ARCHITECTURE].contents())
    copy_fields(reader, writer)
    for tensor in reader.tensors:
        copy_tensor(tensor, writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, target)


if __name__ == "__main__":
    main()
