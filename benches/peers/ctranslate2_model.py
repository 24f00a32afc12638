"""ALBERT's layers as a CTranslate2 model. CTranslate2 reads no ALBERT: its encoders have no step from a narrow embedding to the hidden
size. So this is a BERT whose word table is as wide as the layers (ALBERT's, multiplied by that step), with ALBERT's layer twelve times;
its outputs are not ALBERT's, its work is. CTranslate2 stores equal weights once.

    ctranslate2_model.py CHECKPOINT FOLDER [int8|float32]

CHECKPOINT is a Hugging Face folder with one group of shared layers.
"""

import json
import pathlib
import sys

import numpy as np
from ctranslate2.converters import utils
from ctranslate2.specs import common_spec, transformer_spec
from safetensors.numpy import load_file


def build(folder, out, quantization):
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    weights = {name.removeprefix("albert."): value for name, value in load_file(folder / "model.safetensors").items()}
    activation = common_spec.Activation.GELUTanh
    encoder = transformer_spec.TransformerEncoderSpec(
        config["num_hidden_layers"],
        config["num_attention_heads"],
        pre_norm=False,
        activation=activation,
        layernorm_embedding=True,
        num_source_embeddings=2,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    spec = transformer_spec.TransformerEncoderModelSpec(encoder)
    encoder.scale_embeddings = False
    wide = weights["encoder.embedding_hidden_mapping_in.weight"].T
    encoder.embeddings[0].weight = weights["embeddings.word_embeddings.weight"] @ wide
    encoder.embeddings[1].weight = weights["embeddings.token_type_embeddings.weight"] @ wide
    encoder.position_encodings.encodings = weights["embeddings.position_embeddings.weight"] @ wide
    width = config["hidden_size"]
    encoder.layernorm_embedding.gamma, encoder.layernorm_embedding.beta = np.ones(width, "f4"), np.zeros(width, "f4")

    def linear(spec, name):
        spec.weight, spec.bias = weights[f"{LAYER}.{name}.weight"], weights[f"{LAYER}.{name}.bias"]
        return spec

    def norm(spec, name):
        spec.gamma, spec.beta = weights[f"{LAYER}.{name}.weight"], weights[f"{LAYER}.{name}.bias"]

    for layer in encoder.layer:
        attention = layer.self_attention
        utils.fuse_linear(attention.linear[0], [linear(common_spec.LinearSpec(), f"attention.{part}") for part in ("query", "key", "value")])
        linear(attention.linear[1], "attention.dense")
        norm(attention.layer_norm, "attention.LayerNorm")
        linear(layer.ffn.linear_0, "ffn")
        linear(layer.ffn.linear_1, "ffn_output")
        norm(layer.ffn.layer_norm, "full_layer_layer_norm")
    spec.register_vocabulary([f"t{n}" for n in range(config["vocab_size"])])
    spec.config.unk_token, spec.config.layer_norm_epsilon = "t1", config["layer_norm_eps"]
    spec.validate()
    spec.optimize(quantization=quantization)
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    spec.save(str(out))


LAYER = "encoder.albert_layer_groups.0.albert_layers.0"

if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    build(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else "int8")
