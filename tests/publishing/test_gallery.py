"""The gallery: data that stays data, and a page that filters, overlays and copies in a real browser."""

import math
import re

import pytest
from browser import in_browser, needs_chromium
from made_campaign import made_entry

from grafs_timm.publishing import catalogue, gallery

EXPONENTIAL = {
    "format": "grafs-cell/1", "u1": {"op": "exp"}, "u2": {"op": "cube"}, "b1": {"op": "mul"}, "u3": {"op": "sinh"},
    "u4": {"op": "const", "gamma": 0.5}, "b2": {"op": "add"},
}  # fmt: skip


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    first = made_entry(tmp_path_factory.mktemp("gallery") / "zoo")
    second = first.model_copy(update={"name": "grafs_resnet_b2", "alias": False})
    return [first, second, first.model_copy(update={"name": "grafs_vit_c3", "family": "vit", "genotype": EXPONENTIAL})]


def test_samples_are_the_function_and_its_derivative(entries):
    held = gallery.data(entries)
    x = held["x"]
    assert (len(x), x[0], x[100], x[-1]) == (201, -5.0, 0.0, 5.0)
    silu = next(each for each in held["baselines"] if each["name"] == "silu")
    sigmoid = 1 / (1 + math.exp(-2.0))
    assert silu["f"][140] == pytest.approx(2 * sigmoid, abs=1e-4)
    assert silu["d"][140] == pytest.approx(sigmoid + 2 * sigmoid * (1 - sigmoid), abs=1e-4)
    assert all(len(each[key]) == 201 for each in (*held["entries"], *held["baselines"]) for key in "fd")


def test_embedded_text_cannot_leave_its_script(entries):
    hostile = entries[0].model_copy(update={"name": "</script><script>alert(1)</script><!--"})
    page = gallery.page([hostile])
    assert page.count("</script>") == gallery.page(entries).count("</script>") == 1
    assert "alert(1)" in page
    assert "<!--" not in page


def test_the_page_asks_no_server(entries):
    page = gallery.page(entries)
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page


@needs_chromium
def test_filtering_by_family_and_by_words(entries, tmp_path):
    script = """
      const names = () => [...document.querySelectorAll("#list li")].map(each => each.dataset.name);
      const set = (id, value, event) => { at(id).value = value; at(id).dispatchEvent(new Event(event)); };
      const seen = [names()];
      set("family", "vit", "change"); seen.push(names());
      set("family", "", "change"); set("search", "ELU resnet_b", "input"); seen.push(names());
      set("search", "nothing is called so", "input"); seen.push(names(), at("count").textContent);
      return seen;"""
    everything = ["grafs_resnet_a1", "grafs_resnet_b2", "grafs_vit_c3"]
    assert in_browser(gallery.page(entries), tmp_path, script) == [
        everything, ["grafs_vit_c3"], ["grafs_resnet_b2"], [], "0 of 3",
    ]  # fmt: skip


@needs_chromium
def test_the_switch_shows_searched_published_or_stock_functions(entries, tmp_path):
    script = """
      const set = (id, value) => { at(id).value = value; at(id).dispatchEvent(new Event("change")); };
      const names = () => [...document.querySelectorAll("#list li")].map(each => each.dataset.name);
      const seen = {searched: names()};
      for (const kind of ["published", "stock", ""]) { set("kind", kind); seen[kind] = names(); }
      set("kind", "published"); set("family", "wave"); seen.wave = names();
      document.querySelector('li[data-name="gcu"] input').click();
      set("kind", "searched");
      return [seen, at("family").value, at("legend").textContent.includes("gcu"), at("count").textContent];"""
    seen, family, kept, count = in_browser(gallery.page(entries), tmp_path, script)
    assert seen["searched"] == ["grafs_resnet_a1", "grafs_resnet_b2", "grafs_vit_c3"]
    assert {"golu", "grafs2024_wrn", "relu2"} <= set(seen["published"])
    assert {"gelu", "mish"} <= set(seen["stock"])
    assert not {*seen["published"]} & {*seen["stock"]}
    assert seen[""] == [*seen["searched"], *(each.name for each in catalogue.items())]
    assert seen["wave"] == ["gelu_sine", "gelu_sinc", "gcu", "snake", "gmtu"]
    assert (family, kept, count) == ("", True, "3 of 3")


@needs_chromium
def test_ticking_overlays_functions_and_usual_ones(entries, tmp_path):
    script = """
      const lines = () => [...document.querySelectorAll("#plots svg")].map(
        svg => [...svg.querySelectorAll("path")].map(each => each.dataset.name));
      const seen = [lines()];
      document.querySelector('li[data-name="grafs_resnet_b2"] input').click(); seen.push(lines());
      document.querySelector('#usual input[value="relu"]').click(); seen.push(lines());
      at("none").click(); seen.push(lines());
      const paths = [...document.querySelectorAll("#plots path")].map(each => each.getAttribute("d"));
      const drawn = paths.every(path => path.length > 100 && !/NaN|undefined|Infinity/.test(path));
      return [...seen, drawn];"""
    first, second, third, last, drawn = in_browser(gallery.page(entries), tmp_path, script)
    assert first == [["relu", "gelu", "grafs_resnet_a1", "grafs_vit_c3"]] * 2
    assert second == [["relu", "gelu", "grafs_resnet_a1", "grafs_resnet_b2", "grafs_vit_c3"]] * 2
    assert third == [["gelu", "grafs_resnet_a1", "grafs_resnet_b2", "grafs_vit_c3"]] * 2
    assert last == [["gelu"]] * 2
    assert drawn


@needs_chromium
def test_the_line_is_copied_and_a_refusal_is_told(entries, tmp_path):
    script = """
      const kept = [];
      const clipboard = value => Object.defineProperty(navigator, "clipboard", { value, configurable: true });
      clipboard({ writeText: async text => { kept.push(text); } });
      const button = document.querySelector("#list li button");
      button.focus();
      const focused = document.activeElement === button;
      button.click();
      await new Promise(done => setTimeout(done, 50));
      const said = [kept, at("said").textContent, focused];
      clipboard({ writeText: async () => { throw Error("no"); } });
      document.execCommand = () => false;
      button.click();
      await new Promise(done => setTimeout(done, 50));
      return [...said, at("said").textContent];"""
    line = 'timm.create_model("resnet18", act_layer="grafs_resnet_a1")'
    assert in_browser(gallery.page(entries), tmp_path, script) == [
        [line], f"copied: {line}", True, f"could not copy; the line is: {line}",
    ]  # fmt: skip


@needs_chromium
def test_it_fits_a_phone_and_follows_the_dark_mode(entries, tmp_path):
    script = """
      const frame = document.createElement("iframe");
      frame.style.cssText = "width: 360px; height: 640px";
      frame.srcdoc = SOURCE;
      document.body.append(frame);
      await new Promise(done => frame.addEventListener("load", done));
      const root = frame.contentDocument.documentElement;
      const label = frame.contentDocument.querySelectorAll("#list li").length;
      return [root.scrollWidth <= root.clientWidth, root.clientWidth, label,
              matchMedia("(prefers-color-scheme: dark)").matches, getComputedStyle(document.body).backgroundColor];"""
    page = gallery.page(entries)
    source = gallery.embedded(page)
    fits, width, count, dark, colour = in_browser(page, tmp_path, script.replace("SOURCE", source), "--force-dark-mode",
                                                  "--blink-settings=preferredColorScheme=0")  # fmt: skip
    assert width <= 360
    assert fits
    assert count == 3
    assert dark == (colour == "rgb(20, 23, 26)")


@needs_chromium
def test_an_empty_zoo_opens(tmp_path):
    assert in_browser(gallery.page([]), tmp_path, 'return at("count").textContent') == "0 of 0"
