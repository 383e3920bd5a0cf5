"""Adapters of low rank: they alone are trained and saved, and all else is there once."""

import json
import sys
from contextlib import closing, nullcontext

import pytest
import torch
from test_text_agent import PLAIN, make_agent, small_model
from test_text_reward import MIXED, returns
from toy_texts import save_small_model, tiny_text
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from prefrl.cli import main
from prefrl.config.text import TextRewardConfig
from prefrl.errors import UserError
from prefrl.runs.load import load_policy
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.text.models.load import load_language_model
from prefrl.text.models.lora import add_adapters, copied, merge
from prefrl.text.models.networks import Networks
from prefrl.text.reward import TextReward
from prefrl.text.stages.fitted import load_fitted

pytest.importorskip("peft", reason="adapters are PEFT's")
IDS = torch.tensor([[1, 2, 3, 4]])


def moved(parts, size=0.1):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parts:
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("freeze_layers", [0, 1])
def test_policy_reference_and_critic_hold_the_weights_of_the_model_once(freeze_layers):
    model = small_model().model
    whole = sum(p.numel() for p in model.parameters())
    parts = Networks(model, freeze_layers, True, 0, nullcontext, lora=2)
    trained = parts.trained()
    assert all("lora" in name or name.startswith("value.") for name in trained)
    assert not any("layers.0." in n for n in trained if freeze_layers and n.startswith("model"))
    assert sum(p.numel() for p in parts.parameters()) == whole + sum(
        p.numel() for p in trained.values()
    )
    before = [part(IDS).last_hidden_state for part in (parts.model.base_model, parts.reference)
              if not freeze_layers]  # fmt: skip
    assert not before or torch.equal(*before), "at first an adapter adds nothing"


def test_adapters_change_the_policy_alone_and_are_merged_without_a_trace():
    model = small_model().model
    parts = Networks(model, 0, True, 0, nullcontext, lora=2)
    reference, critic = (part(IDS).last_hidden_state for part in (parts.reference, parts.critic))
    moved(p for n, p in parts.trained().items() if n.startswith("model."))
    logits = model(IDS).logits
    assert torch.equal(parts.reference(IDS).last_hidden_state, reference)
    assert torch.equal(parts.critic(IDS).last_hidden_state, critic)
    assert not torch.allclose(logits, small_model().model(IDS).logits, atol=0.01)
    merge(model)
    torch.testing.assert_close(model(IDS).logits, logits, rtol=0, atol=1e-5)
    assert model.state_dict().keys() == small_model().model.state_dict().keys()
    assert torch.equal(parts.reference(IDS).last_hidden_state, reference)


def test_matrices_that_are_turned_round_have_adapters_too():
    config = GPT2Config(vocab_size=30, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    before = model(IDS).logits
    add_adapters(model, 2, 1, 0)
    assert torch.equal(model(IDS).logits, before)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert named and all(".h.1." in name and "lora" in name for name in named)
    moved(named.values())
    changed = model(IDS).logits
    assert not torch.allclose(changed, before, atol=1e-3)
    merge(model)
    torch.testing.assert_close(model(IDS).logits, changed, rtol=0, atol=1e-5)


def test_a_copy_shares_what_is_frozen():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2).requires_grad_(False), torch.nn.Linear(2, 2))
    twin = copied(module)
    assert twin[0].weight is module[0].weight and twin[1].weight is not module[1].weight


@pytest.mark.parametrize("critic", ["own", "shared"])
def test_a_checkpoint_holds_the_adapters_alone_and_goes_on_from_them(critic):
    agent, again = (make_agent(text={"lora": 2}, critic=critic) for _ in range(2))
    agent.train(PLAIN, 16)
    data = to_bytes(agent.state_dict())
    names = from_bytes(data)["networks"].keys()
    assert all("lora" in name or name.startswith("value.") for name in names)
    again.load_state_dict(from_bytes(data))
    assert agent.train(PLAIN, 16)[1] == again.train(PLAIN, 16)[1]
    assert to_bytes(agent.state_dict()) == to_bytes(again.state_dict())


@pytest.mark.parametrize("members", [1, 2])
def test_a_reward_model_of_adapters_learns_and_holds_its_model_once(members):
    language_model = small_model()
    language_model.model.requires_grad_(False)
    whole = sum(p.numel() for p in language_model.model.base_model.parameters())
    model = TextReward(
        language_model, TextRewardConfig(lora=2, members=members), 0, False, nullcontext
    )
    own = sum(p.numel() for p in model.parameters())
    everything = {id(p): p.numel() for p in torch.nn.Module.parameters(model)}
    assert sum(everything.values()) == whole + own and own < whole
    before = returns(model, MIXED)
    state = from_bytes(to_bytes(model.state_dict()))
    moved(model.parameters())
    assert not torch.allclose(returns(model, MIXED), before, atol=0.01)
    model.load_state_dict(state)
    assert torch.equal(returns(model, MIXED), before)
    assert sum(v.numel() for v in state["fitted"].values()) == own


def test_a_run_of_adapters_is_resumed_to_the_byte_and_exported_without_them(tmp_path, capsys):
    model = save_small_model(tmp_path / "model")
    experiment = tiny_text(model, text={"lora": 2}, reward_model={"lora": 2})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(experiment, whole)
    with closing(start(experiment, cut)) as session:
        next(rounds(session))
        next(rounds(session))
    with closing(resume(cut)) as session:
        for _ in rounds(session):
            pass
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (whole, cut)]
    assert metrics[0] == metrics[1]
    kept = load_language_model(str(whole / "reference")).model.state_dict()
    begun = load_language_model(str(model)).model.state_dict()
    assert all(torch.equal(kept[name], weights) for name, weights in begun.items())
    policy = load_policy(whole)
    main(["export", str(whole), "--model", str(tmp_path / "exported")])
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert torch.equal(exported(IDS).logits, policy.model(IDS).logits)
    assert not torch.equal(exported(IDS).logits, load_language_model(str(model)).model(IDS).logits)
    assert "now merged" in (tmp_path / "exported" / "README.md").read_text("utf-8")


def test_a_fit_of_adapters_is_what_transformers_opens(tmp_path):
    rows = [{"prompt": f"{n} ", "chosen": "e" * 6, "rejected": "a" * 6} for n in range(12)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    folder = tmp_path / "reward"
    words = ["--model", "tiny", "--lora", "2", "--epochs", "2", "--held-out", "0"]
    main(["fit", str(file), *words, "-o", str(folder)])
    ours = load_fitted(folder)
    assert ours.score("0 ", "eeee") != ours.score("0 ", "aaaa")
    opened = AutoModelForSequenceClassification.from_pretrained(folder)
    ids = torch.tensor([[*b"0 eeee", ours.template.end_id]])
    assert float(opened(ids).logits.detach()) == pytest.approx(ours.score("0 ", "eeee"), abs=1e-5)


def test_without_peft_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"PEFT's, .*: pip install 'prefrl.lora.'"):
        make_agent(text={"lora": 2})
