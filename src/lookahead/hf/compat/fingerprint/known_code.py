"""Digests of the functions of transformers that the compiled CPU decoder stands in for.

`scripts/known_code.py` writes this file. A function with another digest is
left to the model's own code.
"""

RELEASES = "5.16.1 to 5.23.0"
"""Releases of transformers whose functions were read."""

KNOWN_CODE: dict[str, frozenset[str]] = {
    "ForCausalLM.forward": frozenset({"1e1249f332dd", "f14e2be13ced"}),
    "Model.forward": frozenset({"3e106c8cfc95", "3ee4b3154dd9", "7082cc645fa7"}),
    "DecoderLayer.forward": frozenset({"1a8125909341"}),
    "Attention.forward": frozenset({"38eb7a675fc0", "467d2e0bba2f", "865d17a1b6ed", "e0b15d778eec"}),
    "MLP.forward": frozenset({"7d2027d4464e"}),
    "RMSNorm.forward": frozenset({"9635bcd843f3"}),
    "apply_rotary_pos_emb": frozenset({"f0e978aab1df"}),
    "rotate_half": frozenset({"7b6c9b425ca0"}),
    "repeat_kv": frozenset({"317a4b215657"}),
    "eager_attention_forward": frozenset({"354553d38c11"}),
    "sdpa_attention_forward": frozenset({"2937daa31264", "43d75248d76f", "88039bc66386", "c6857e7b5991"}),
    "SiLUActivation.forward": frozenset({"e730f54291b8"}),
}
