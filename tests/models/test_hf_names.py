"""The zoo's names in transformers' activation map: whichever is imported first, and what transformers has already."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
import warnings

import pytest
import torch
from tiny_runs import ROOT

import grafs_timm
from grafs_timm.activations import published
from grafs_timm.activations.activation import FoundActivation
from grafs_timm.errors import GenotypeError
from grafs_timm.models import hf_names
from grafs_timm.utils.on_import import _Finder
from grafs_timm.zoo import lookup as zoo

NAME = "grafs_resnet"
GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": 32, "bos_token_id": 0, "eos_token_id": 0}
LLAMA = {
    "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 32,
    "max_position_embeddings": 8,
}  # fmt: skip
needed = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT)


def made_module(**names: object) -> types.ModuleType:
    """A stand-in for ``transformers.activations`` with maps of its own."""
    module = types.ModuleType(hf_names.MODULE)
    vars(module).update({"ACT2CLS": {"relu": torch.nn.ReLU}, "ACT2FN": {"relu": torch.nn.ReLU}} | names)
    return module


def test_every_name_is_in_both_maps_and_twice_changes_nothing() -> None:
    module = made_module()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf_names.fill(module)
        before = dict(module.ACT2FN)
        hf_names.fill(module)
    assert module.ACT2FN == module.ACT2CLS == before
    assert before.keys() == {"relu", *zoo.names(), *published.list_published()}
    assert before[NAME]().genotype == grafs_timm.get_activation(NAME).genotype


@pytest.mark.parametrize("key", hf_names.MAPS)
def test_a_name_of_transformers_own_stays(key: str) -> None:
    module = made_module(**{key: {NAME: (torch.nn.LeakyReLU, {"negative_slope": 0.5})}})
    with pytest.warns(UserWarning, match="transformers has an activation 'grafs_resnet' of its own, which is kept"):
        hf_names.fill(module)
    assert getattr(module, key)[NAME] == (torch.nn.LeakyReLU, {"negative_slope": 0.5})
    other = next(name for name in hf_names.MAPS if name != key)
    assert NAME not in getattr(module, other)
    assert zoo.names().keys() - {NAME} <= getattr(module, other).keys()


def test_a_published_name_of_transformers_stays_theirs_without_a_warning() -> None:
    module = made_module(ACT2FN={"golu": torch.nn.Tanh})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf_names.fill(module)
    assert module.ACT2FN["golu"] is torch.nn.Tanh
    assert "golu" not in module.ACT2CLS
    assert "telu" in module.ACT2CLS


@pytest.mark.parametrize("key", hf_names.MAPS)
def test_a_transformers_without_such_maps_is_warned_of(key: str) -> None:
    module = made_module(**{key: ()})
    with pytest.warns(UserWarning, match="not known to transformers .* has no dict ACT2CLS and ACT2FN"):
        hf_names.fill(module)
    assert all(NAME not in getattr(module, each) for each in hf_names.MAPS)


def test_a_broken_zoo_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise GenotypeError("zoo/x.json: genotype: no such op")

    monkeypatch.setattr(zoo, "names", broken)
    with pytest.warns(UserWarning, match=r"not known to transformers: zoo/x\.json"):
        hf_names.fill(made_module())


def test_a_loader_that_cannot_be_told_is_left_alone() -> None:
    class Slotted:
        __slots__ = ()

        def exec_module(self, module: types.ModuleType) -> None: ...

    with pytest.warns(UserWarning, match="Slotted loads transformers; import it before grafs_timm"):
        _Finder(hf_names.MODULE, hf_names.fill, "the zoo's names are not known to transformers")._follow(Slotted())


BUILD = (
    "from transformers import AutoConfig, AutoModelForCausalLM\n"
    f"config = AutoConfig.for_model('gpt2', activation_function={NAME!r}, **{GPT2})\n"
    "model = AutoModelForCausalLM.from_config(config)\n"
    "print([block.mlp.act.activation_name for block in model.transformer.h])\n"
    "import sys; print([getattr(f, 'name', '') for f in sys.meta_path].count('transformers.activations'))\n"
)


@needed
@pytest.mark.parametrize(
    "first",
    [
        "import grafs_timm",
        pytest.param("import transformers, grafs_timm", marks=pytest.mark.slow),
        pytest.param("import transformers.activations, grafs_timm", marks=pytest.mark.slow),
        pytest.param("import transformers.models.gpt2.modeling_gpt2, grafs_timm", marks=pytest.mark.slow),
    ],
)
def test_whichever_is_imported_first(first: str) -> None:
    done = python(f"{first}\n{BUILD}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str([grafs_timm.get_activation(NAME).name] * 2), "0"]
    assert "not known" not in done.stderr


def test_the_import_brings_no_transformers_and_one_hook_only() -> None:
    done = python(
        "import sys, grafs_timm\n"
        "from grafs_timm.models import hf_names\n"
        "hf_names.register()\n"
        "print(*[name for name in sys.modules if name.startswith('transformers')])\n"
        "print([getattr(f, 'name', '') for f in sys.meta_path].count('transformers.activations'))\n"
    )
    assert done.stdout.splitlines() == ["", "1"], done.stderr


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "ModuleNotFoundError: No module named 'transformers'"),
        pytest.param(
            {"__init__": "", "activations": "ACT2CLS = {}; raise RuntimeError('half')"},
            "RuntimeError: half",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"__init__": ""}, "ModuleNotFoundError: No module named 'transformers.activations'", marks=pytest.mark.slow
        ),
    ],
    ids=["missing", "raises", "without activations"],
)
def test_a_broken_transformers_breaks_by_its_own_error(tmp_path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / "transformers").mkdir(exist_ok=True)
        (tmp_path / "transformers" / f"{name}.py").write_text(text, encoding="utf-8")
    block = "" if files else "sys.modules['transformers'] = None\n"
    done = python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{block}"
        "import grafs_timm\n"
        "for _ in range(2):\n"
        "    try: import transformers.activations\n"
        "    except Exception as error: print(type(error).__name__, error, sep=': ')\n"
        "print(grafs_timm.act_layer('gelu').__name__)\n"
    )
    first, second, gelu = done.stdout.splitlines()
    assert gelu == "GELU"
    assert first == second
    assert first.startswith(said.removesuffix("'transformers'")), done.stderr
    assert "grafs" not in done.stderr


@pytest.mark.slow
def test_a_made_transformers_is_filled_and_keeps_its_loader(tmp_path) -> None:
    """Its source is still found, after a mere look for it too, and a failed first import is followed by a good one."""
    package = tmp_path / "transformers"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '9'", encoding="utf-8")
    (package / "activations.py").write_text(
        "import sys\nsys.tries += 1\nif sys.tries < 2: 1 / 0\nACT2CLS = {}; ACT2FN = {}\n", encoding="utf-8"
    )
    done = python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.tries = 0\n"
        "import grafs_timm, importlib.util, inspect\n"
        "importlib.util.find_spec('transformers.activations')\n"
        "try: import transformers.activations\n"
        "except ZeroDivisionError: print('failed')\n"
        "import transformers.activations as module\n"
        f"print({NAME!r} in module.ACT2CLS, {NAME!r} in module.ACT2FN)\n"
        "print(type(module.__loader__).__name__, vars(module.__loader__).keys() & {'exec_module'})\n"
        "print('ACT2CLS' in inspect.getsource(module))\n"
        "print([getattr(f, 'name', '') for f in sys.meta_path].count('transformers.activations'))\n"
    )
    assert done.stdout.splitlines() == ["failed", "True True", "SourceFileLoader set()", "True", "0"], done.stderr


@needed
@pytest.mark.parametrize(
    ("kind", "sizes", "key", "place"),
    [("gpt2", GPT2, "activation_function", "mlp.act"), ("llama", LLAMA, "hidden_act", "mlp.act_fn")],
)
def test_a_model_trains_with_it_and_its_configuration_travels(tmp_path, kind: str, sizes: dict, key: str, place: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{key: NAME}, **sizes))
    sites = [module for name, module in model.named_modules() if name.endswith(place)]
    assert len(sites) == 2
    assert all(isinstance(site, FoundActivation) for site in sites)
    assert sites[0] is not sites[1]
    tokens = torch.randint(32, (2, 8))
    model(tokens, labels=tokens).loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if ".mlp." in name]
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in gradients)

    model.eval().save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert getattr(again.config, key) == NAME
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


@needed
def test_the_gate_of_llama_computes_the_formula() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    torch.manual_seed(0)
    mlp = LlamaMLP(LlamaConfig(hidden_act=NAME, **LLAMA))
    x = torch.randn(3, 16)
    expected = mlp.down_proj(grafs_timm.get_activation(NAME).genotype(mlp.gate_proj(x)) * mlp.up_proj(x))
    torch.testing.assert_close(mlp(x), expected)
