"""A transformer learns from judgments: a tiny one, made here."""

import numpy as np
import pytest

from dselect.errors import DselectError
from tests.commands.test_qurating import ODD, judged
from tests.conftest import CODE, COOKING, LAW, long, make_pool, write_records

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Write a random BERT of two layers, with a tokenizer of the words there are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words.train_from_iterator([" ".join(COOKING + CODE + LAW)], trainers.WordLevelTrainer(special_tokens=special))
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=words.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@long
def test_it_learns_which_text_is_better_and_is_one_file(dselect, tiny, tmp_path):
    write_records(tmp_path / "pool.jsonl", [*make_pool(60), *({"text": text} for text in ODD)])
    write_records(tmp_path / "j.jsonl", [*judged(400), *judged(400, 2, "law", "law")])
    options = ["--judgments", "j.jsonl", "--rater", f"hf:{tiny}", "--epochs", 4, "--lr", 3e-3]
    fitted = dselect("qurating", "pool.jsonl", *options, "--save", "m", "-o", "-")
    assert "of unseen texts 1.000 right" in fitted.stderr
    taste, law = (
        np.array([[record[f"qurating_{name}"] for record in fitted.records if record.get("source") == source]
                  for source in ("cooking", "code", "law")])
        for name in ("taste", "law")
    )  # fmt: skip
    assert taste[0].min() > taste[1:].max()
    assert law[2].min() > law[:2].max()
    scored = dselect("qurating", "pool.jsonl", "--model", "m").records
    for one, other in zip(fitted.records, scored, strict=True):
        assert one["qurating_law"] == pytest.approx(other["qurating_law"], abs=1e-5)
        assert np.isfinite(one["qurating_law"])
    alone = dselect("qurating", "--model", "m", "--criterion", "law", stdin=b'{"text":"stir the pan"}\n').records
    assert set(alone[0]) == {"text", "qurating"}


@long
def test_long_texts_are_the_mean_of_their_windows_by_their_tokens(tiny):
    from dselect.models.neural_rater import NeuralRater

    rater = NeuralRater.of(str(tiny), ["x"], 0)
    words = (COOKING + LAW) * 5
    room = rater.window - 2
    pieces = [words[start : start + room] for start in range(0, len(words), room)]
    assert len(pieces) > 2
    each = rater.rate([" ".join(piece).encode() for piece in pieces])[:, 0]
    expected = np.average(each, weights=list(map(len, pieces)))
    assert rater.rate([" ".join(words).encode()])[0, 0] == pytest.approx(expected, abs=1e-5)


@long
def test_a_folder_without_a_model_and_a_damaged_file_are_refused(tiny, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    from dselect.commands.qurating import open_rater
    from dselect.models.neural_rater import NeuralRater

    with pytest.raises(DselectError, match="hf:"):
        NeuralRater.of(str(tmp_path), ["x"], 0)
    (tmp_path / "m").write_bytes(NeuralRater.of(str(tiny), ["x"], 0).to_bytes())
    assert open_rater(str(tmp_path / "m"), 1).criteria == ("x",)
    with safe_open(tmp_path / "m", framework="numpy") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays.popitem()
    save_file(arrays, tmp_path / "bad", metadata=header)
    with pytest.raises(DselectError, match="not a sound qurating model"):
        open_rater(str(tmp_path / "bad"), 1)
