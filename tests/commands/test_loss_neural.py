"""Causal models of transformers against values computed elsewhere, and against themselves in other divisions."""

import json
import math
import struct

import numpy as np
import pytest

from tests.conftest import lines, make_pool

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# bits per byte from another implementation of this model, which counts the space it puts before a text as a byte
CHECKED = {
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a"
    " big red ball.": 0.170,
    "The Federal Reserve raised interest rates by twenty five basis points on Wednesday, citing persistent"
    " inflation.": 3.833,
}


def tokenizer(path):
    """Build the llama2.c tokenizer: merges in the order of the pieces' scores, bytes where no piece fits."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    data = path.read_bytes()
    pieces, at = [], 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + length].decode(errors="replace"), score))
        at += 8 + length
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(piece for piece, _ in pieces[259:])]
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = [
        (-score, number, piece[:cut], piece[cut:])
        for number, (piece, score) in enumerate(pieces[259:])
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Prepend(" ")
    bpe.decoder = decoders.ByteFallback()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """Write stories260K as a Llama checkpoint of transformers."""
    from tests.conftest import SHARED

    source = SHARED / "models" / "stories260K"
    if not source.is_dir():
        pytest.skip("no model here")
    data = (source / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack_from("<7i", data)
    vocabulary = abs(vocabulary)
    weights, at = np.frombuffer(data, "<f4", offset=28), 0

    def take(*shape):
        nonlocal at
        size = math.prod(shape)
        at += size
        return torch.tensor(weights[at - size : at].reshape(shape))

    kv = dim // heads * kv_heads
    names = {
        "embed_tokens": [take(vocabulary, dim)],
        "input_layernorm": take(layers, dim), "self_attn.q_proj": take(layers, dim, dim),
        "self_attn.k_proj": take(layers, kv, dim), "self_attn.v_proj": take(layers, kv, dim),
        "self_attn.o_proj": take(layers, dim, dim), "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim), "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim), "norm": [take(dim)],
    }  # fmt: skip
    state = {}
    for name, tensors in names.items():
        for layer, tensor in enumerate(tensors):
            if name in ("self_attn.q_proj", "self_attn.k_proj"):  # rope on adjacent pairs → on halves
                pairs = tensor.view(-1, dim // heads // 2, 2, dim)
                tensor = pairs.transpose(1, 2).reshape(tensor.shape)
            place = f"model.{name}" if name in ("embed_tokens", "norm") else f"model.layers.{layer}.{name}"
            state[f"{place}.weight"] = tensor.contiguous()
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=context, rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    folder = tmp_path_factory.mktemp("stories")
    model.save_pretrained(folder)
    tokenizer(source / "tok512.bin").save_pretrained(folder)
    return folder


def losses(run):
    return [record["loss_s"] for record in run.records]


def test_the_losses_are_those_computed_elsewhere(stories, dselect):
    scored = dselect("loss", "--model", f"s=hf:{stories}", stdin=lines({"text": text} for text in CHECKED))
    as_there = [loss * len(text) / (len(text) + 1) for text, loss in zip(CHECKED, losses(scored), strict=True)]
    assert as_there == pytest.approx(list(CHECKED.values()), abs=6e-4)


def test_the_loss_of_a_text_does_not_depend_on_its_company_and_the_empty_one_gets_eight(stories, dselect):
    records = [*make_pool(40), {"text": ""}, {"text": "x"}, {"text": "漢字 🤖 \x00"}]
    whole = losses(dselect("loss", "--model", f"s=hf:{stories}", stdin=lines(records)))
    apart = losses(dselect("loss", "--model", f"s=hf:{stories}", "--batch-tokens", 1, stdin=lines(records)))
    backwards = losses(dselect("loss", "--model", f"s=hf:{stories}", stdin=lines(records[::-1])))
    assert whole == pytest.approx(apart, abs=1e-5)
    assert whole == pytest.approx(backwards[::-1], abs=1e-5)
    assert whole[40] == 8
    assert all(map(math.isfinite, whole))


def test_a_text_of_several_windows_is_scored_token_by_token_with_all_context_that_fits(stories, dselect):
    text = " ".join([*CHECKED, "def quicksort(arr):\n    return arr"])
    model = transformers.AutoModelForCausalLM.from_pretrained(stories)
    ids = [1, *transformers.AutoTokenizer.from_pretrained(stories)(text, add_special_tokens=False)["input_ids"]]
    window, stride = 16, 5
    assert len(ids) > 3 * window
    bits, start = 0.0, 0
    for at in range(1, len(ids)):
        if at >= start + window:
            start += stride
        with torch.inference_mode():
            logits = model(torch.tensor([ids[start:at]])).logits[0, -1].double()
        bits -= float(torch.log_softmax(logits, 0)[ids[at]]) / math.log(2)
    options = ["--model", f"s=hf:{stories}", "--window", window, "--stride", stride]
    found = losses(dselect("loss", *options, stdin=lines([{"text": text}])))
    assert found == pytest.approx([bits / len(text.encode())], abs=1e-5)


def test_other_types_of_numbers_are_near(stories, dselect):
    records = lines({"text": text} for text in CHECKED)
    scored = dselect("loss", "--model", f"s=hf:{stories}", "--dtype", "bfloat16", stdin=records)
    assert losses(scored) == pytest.approx(list(CHECKED.values()), rel=0.05)


def test_what_is_no_model_is_said_in_one_line(dselect, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "nothing"}), "utf-8")
    failed = dselect("loss", "--model", "s=hf:./model", stdin=b'{"text":"a"}', status=1)
    assert failed.stderr.count("\n") == 1
    assert "hf:./model" in failed.stderr


def test_a_model_without_its_tokenizer_is_said_to_lack_it(stories, dselect, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bare" / name).write_bytes((stories / name).read_bytes())
    failed = dselect("loss", "--model", "s=hf:bare", stdin=b'{"text":"a"}\n', status=1).stderr
    assert failed.startswith("dselect: hf:bare: no tokenizer that transformers can read")
    assert failed.count("\n") == 1
