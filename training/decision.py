"""
Make a trained adapter one of a decision model: add the template and the temperatures to its file.

    python training/decision.py ADAPTER.gguf --choice 1.3 --score 1.1

The file is written anew, in place. Run it again after fitting other temperatures. The launcher and
`merge_adapter` copy these entries into the model's own file, where llama.cpp looks for them.

Needs the package gguf (extra `train` or `judge`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import gguf

from urisk_nb.embedded.decision import TEMPLATE, TYPE, is_decision_key
from urisk_nb.embedded.weights import place_atomically

TEMPLATE_FILE = Path(__file__).with_name("systemone.jinja")


def add_entries(adapter: Path, out: Path, temperatures: Mapping[str, float]) -> Path:
    """
    Write an adapter with the entries of a decision model.

    Parameters
    ----------
    adapter, out
        The trained file, and where the other goes; may be the same.
    temperatures
        By question type, `choice` and `score`; what is left out is 1.
    """
    reader = gguf.GGUFReader(adapter)
    with (
        place_atomically(out, out.parent) as path,
        closing(gguf.GGUFWriter(path, "llama")) as writer,
    ):
        for name, field in reader.fields.items():
            is_own = name.startswith("GGUF.") or name == "general.architecture"
            if not (is_own or is_decision_key(name)):
                inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, field.contents(), field.types[0], inner)
        writer.add_string(TYPE, "openjev")
        writer.add_string(TEMPLATE, TEMPLATE_FILE.read_text(encoding="utf-8"))
        writer.add_array("tokenizer.chat_templates", ["systemone"])
        for name, value in temperatures.items():
            writer.add_float32(f"llama.decision.temperature.{name}", value)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--choice", type=float, default=1.0, help="temperature of the risk")
    parser.add_argument("--score", type=float, default=1.0, help="temperature of the severity")
    parser.add_argument("--out", type=Path, help="default: the adapter's own file")
    args = parser.parse_args()
    temperatures = {"choice": args.choice, "score": args.score}
    if min(temperatures.values()) <= 0:
        parser.error("a temperature is above 0")
    add_entries(args.adapter, args.out or args.adapter, temperatures)


if __name__ == "__main__":
    main()
