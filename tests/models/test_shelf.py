"""Entries from outside the package: what is taken, by which hash, and what is refused with which words."""

import http.server
import json
import threading

import pytest
import timm
import torch
from added_entries import MAPS, NAME, fresh, other, put  # noqa: F401  fresh is a fixture
from made_campaign import made_entry
from timm.layers import create_act

import grafs_timm
from grafs_timm.errors import DataError, GenotypeError, WeightsError
from grafs_timm.models import timm_names, weights
from grafs_timm.zoo import lookup as zoo
from grafs_timm.zoo import outside


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_entry(tmp_path_factory.mktemp("made") / "zoo", NAME)


def test_a_file_becomes_a_name_that_timm_knows(made, tmp_path):
    source = put(made, tmp_path / "resnet" / f"{NAME}.json")
    added = grafs_timm.add_activation(source, sha256=made.sha256)
    assert added.contents == made
    assert NAME in grafs_timm.list_activations("grafs_resnet_out*")
    assert grafs_timm.get_activation(NAME.upper()) is added
    assert NAME in str(timm.create_model("test_resnet", act_layer=NAME).act1)
    x = torch.linspace(-3, 3, 7)
    assert torch.equal(grafs_timm.act_layer(NAME)()(x), added.genotype(x))
    assert torch.equal(grafs_timm.act_layer(added)()(x), added.genotype(x))
    assert grafs_timm.add_activation(str(source)) is added  # once more changes nothing
    assert NAME not in zoo.entries()  # the package's own are what they were
    assert zoo.names()["grafs_resnet"].name != NAME


def test_a_hub_folder_is_a_source(made, tmp_path):
    put(made, tmp_path / "activation.json")
    assert grafs_timm.add_activation(tmp_path).name == NAME


@pytest.mark.parametrize(
    "climbing",
    [
        {"pretrained_cfg": {"file": "../../elsewhere.safetensors"}},
        {"model_args": {"checkpoint_path": "/etc/passwd"}},
        {"pretrained_cfg": {"hf_hub_filename": "../x"}},
    ],
)
def test_a_hub_folder_that_names_other_files_is_refused(made, tmp_path, climbing):
    put(made, tmp_path / "activation.json")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"} | climbing), encoding="utf-8")
    field = next(iter(climbing))
    with pytest.raises(WeightsError, match=rf"config\.json: {field}.*names no other file"):
        grafs_timm.add_activation(tmp_path)
    with pytest.raises(WeightsError, match="names no other file"):
        weights.create_from(tmp_path)
    assert NAME not in zoo.names()


def test_a_zoo_folder_is_added_whole_or_not_at_all(made, tmp_path):
    second = other(made, "grafs_resnet_outside2")
    put(made, tmp_path / "resnet" / f"{NAME}.json")
    put(second, tmp_path / "resnet" / "grafs_resnet_outside2.json")
    with pytest.raises(GenotypeError, match=r"2 entries: grafs_resnet_outside1, .*add_activations"):
        grafs_timm.add_activation(tmp_path)
    assert grafs_timm.add_activation(tmp_path, sha256=second.sha256).name == second.name
    assert NAME not in zoo.names()
    taken = zoo.get_activation("grafs_resnet").name
    bad = put(other(made, taken), tmp_path / "resnet" / "grafs_resnet_zz.json")
    with pytest.raises(GenotypeError, match="taken"):
        grafs_timm.add_activations(tmp_path)
    assert NAME not in zoo.names()
    bad.unlink()
    assert {each.name for each in grafs_timm.add_activations(tmp_path)} == {NAME, second.name}


def test_a_taken_name_is_refused_with_both_functions(made, tmp_path):
    grafs_timm.add_activation(put(made, tmp_path / "a.json"))
    with pytest.raises(GenotypeError, match=rf"b\.json: name: {NAME} is taken by another function, .*this one is"):
        grafs_timm.add_activation(put(other(made), tmp_path / "b.json"))
    create_act._ACT_LAYER_DEFAULT["grafs_resnet_theirs"] = torch.nn.ReLU
    with pytest.raises(GenotypeError, match="timm has an activation 'grafs_resnet_theirs' of its own"):
        grafs_timm.add_activation(put(other(made, "grafs_resnet_theirs"), tmp_path / "c.json"))


@pytest.mark.parametrize("name", ["golu", "mish", "grafs2024_wrn"])
def test_an_entry_cannot_take_a_published_name(made, tmp_path, name):
    with pytest.raises(GenotypeError, match=rf"a\.json: name: .*\^grafs_.*'{name}'"):
        grafs_timm.add_activation(put(made.model_copy(update={"name": name}), tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": "grafs-zoo/1", "format": "grafs-zoo/1"}', "duplicate key 'format'"),
        ('{"format": NaN}', "NaN is not a number"),
        ("[" * 100_000, "not a zoo entry"),
        ("", "not a zoo entry"),
        ('{"format": "grafs-cell/1"}', "genotype"),
        ("{}", "format"),
    ],
)
def test_what_is_no_entry_is_refused(text, said, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GenotypeError, match=said) as caught:
        grafs_timm.add_activation(path)
    assert "x.json" in str(caught.value)


def test_a_local_hash_is_compared_where_it_is_given(made, tmp_path):
    source = put(made, tmp_path / "a.json")
    with pytest.raises(GenotypeError, match=f"{made.sha256}, asked for {'0' * 64}"):
        grafs_timm.add_activation(source, sha256="0" * 64)
    with pytest.raises(DataError, match="no such file"):
        grafs_timm.add_activation(tmp_path / "b.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither activation\.json nor"):
        grafs_timm.add_activation(tmp_path / "empty")


@pytest.fixture
def served(made, tmp_path, monkeypatch):
    """A web server with the entry, a large file and a redirect to another scheme; http stands for https here."""
    body = json.dumps(made.to_dict()).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "ftp://127.0.0.1/entry.json")
                self.end_headers()
            elif self.path == "/missing":
                self.send_error(404)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body if self.path == "/entry.json" else b" " * (1 << 20))

        def log_message(self, *arguments):
            pass

    monkeypatch.setattr(outside, "_SCHEME", "http")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_url_needs_the_hash(made, served):
    url = f"{served}/entry.json"
    with pytest.raises(GenotypeError, match=f"cannot vouch for itself.*claims sha256='{made.sha256}'"):
        grafs_timm.add_activation(url)
    with pytest.raises(GenotypeError, match="asked for 0000"):
        grafs_timm.add_activation(url, sha256="0" * 64)
    assert NAME not in zoo.names()
    assert grafs_timm.add_activation(url, sha256=made.sha256).contents == made


def test_a_url_that_leads_elsewhere_or_is_too_large_is_refused(served, monkeypatch):
    with pytest.raises(DataError, match="leads to ftp://"):
        grafs_timm.add_activation(f"{served}/away", sha256="0" * 64)
    with pytest.raises(DataError, match="404"):
        grafs_timm.add_activation(f"{served}/missing", sha256="0" * 64)
    monkeypatch.setattr(outside, "_LARGEST", 1 << 16)
    with pytest.raises(DataError, match="larger than"):
        grafs_timm.add_activation(f"{served}/large", sha256="0" * 64)


def test_only_https_is_fetched():
    for url in ("http://example.com/a.json", "gs://bucket/a.json"):
        with pytest.raises(DataError, match="by https alone"):
            grafs_timm.add_activation(url, sha256="0" * 64)
    with pytest.raises(DataError, match="pipe"):
        grafs_timm.add_activation("pipe:cat /etc/passwd", sha256="0" * 64)


def test_registering_again_keeps_what_was_added(made, tmp_path):
    grafs_timm.add_activation(put(made, tmp_path / "a.json"))
    timm_names.register()
    assert NAME in str(timm.create_model("test_vit", act_layer=NAME).blocks[0].mlp.act)
