"""The page as a visitor uses it, in a real browser that reaches no host but this machine."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

from modeling_clip_vit.data.decoding import decode_image
from modeling_clip_vit.search.engine import PictureSearch
from modeling_clip_vit.search.rejection import LEAST_MARGIN, class_margins
from tests.support.browsers import Browser, serve, to_base64
from tests.support.pictures import encode

from .conftest import HOSTILE_NAME

pytestmark = pytest.mark.slow

LOAD = """
const { Computer } = await import("./backend.js");
window.computer ??= new Computer();
const site = await (await fetch("data/site.json")).json();
await (window.loading ??= computer.call("load", site));
"""


@pytest.fixture(scope="module")
def vectors(picture_index):
    """The vectors of the index, by id, and the names of the pictures."""
    rows = picture_index.table.to_arrow().sort_by("id").to_pylist()
    return np.array([row["vector"] for row in rows], np.float32), [row["name"] for row in rows]


@pytest.fixture(scope="module")
def queries(emoji) -> list[str]:
    """Texts in two languages, full-width and over-long ones, ligatures, emoji with joiners."""
    texts = [row[name] for row in emoji for name in ("caption_en", "caption_zh")][:408]
    odd = [
        "ＦＵＬＬ　ｗｉｄｔｈ",
        "ﬁne ﬂow",
        "👩‍👩‍👧‍👦 family 🏳️‍🌈",
        "pizza " * 60,
        "披萨" * 80,
        "<bos> a </s>",
    ]
    return texts + odd + ["  two   spaces ", "Tab\tand\nline", "ÀÉÎ õü", "12:30", "x-ray", "!?…"]


def similarities(picture_index, vectors, texts) -> np.ndarray:
    return picture_index.text_encoder()(texts) @ vectors.T


def cards(browser) -> list[str]:
    return browser.texts("#search-view .card .title")


def test_texts_have_the_tokens_of_python(browser, picture_index, queries):
    script = """
    const all = [];
    for (const text of values[0]) all.push(await computer.call("tokenize", text));
    return all;
    """
    found = browser.compute(LOAD + script, queries)
    encoder = picture_index.text_encoder()
    for text, tokens in zip(queries, found, strict=True):
        assert tokens["ids"] == encoder.tokenize([text])["input_ids"][0].tolist(), text


def test_400_queries_are_ranked_as_by_python(browser, picture_index, vectors, queries):
    assert len(queries) >= 400
    script = """
    const all = [];
    for (const text of values[0]) {
      all.push(await computer.call("search", [{ text, weight: 1 }], 10, null));
    }
    return all.map(({ rows, scores }) => ({ rows, scores: [...scores] }));
    """
    found = browser.compute(LOAD + script, queries)
    expected = similarities(picture_index, vectors[0], queries)
    for text, scores, result in zip(queries, expected, found, strict=True):
        np.testing.assert_allclose(result["scores"], np.sort(scores)[::-1][:10], atol=1e-5)
        # The same picture at each place, unless two scores are equal but for rounding.
        np.testing.assert_allclose(
            scores[result["rows"]], result["scores"], atol=1e-5, err_msg=text
        )


@pytest.mark.parametrize("query", ["a cat", "一只猫", "a dog - 2:snow", ".5:sky + sea + 12:30"])
def test_a_hit_fits_as_the_command_says(browser, picture_index, query):
    script = """
    const { parseQuery } = await import("./grammar.js");
    return computer.call("search", parseQuery(values[0]), 20, null);
    """
    found = browser.compute(LOAD + script, query)
    search = PictureSearch(picture_index)
    hits = search(search.embed(query), top_k=1000).hits
    np.testing.assert_allclose(found["margins"], [hit.margin for hit in hits[:20]], atol=1e-3)
    assert found["fitting"] == sum(hit.fits for hit in hits)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("large.png", encode(Image.effect_noise((900, 700), 80).convert("RGB"))),
        ("small.png", encode(Image.effect_noise((20, 17), 80).convert("RGB"))),
        ("tall.png", encode(Image.effect_noise((60, 700), 80).convert("RGB"))),
        ("grey.png", encode(Image.linear_gradient("L"))),
        ("palette.gif", encode(Image.effect_noise((90, 70), 60).quantize(8), "GIF")),
        ("clear.png", encode(Image.merge("RGBA", [Image.linear_gradient("L")] * 4))),
    ],
)
def test_a_dropped_picture_has_the_vector_of_python(browser, picture_index, name, content):
    check_dropped(browser, picture_index, name, content)


def test_a_photograph_that_lies_on_its_side_has_the_vector_of_python(browser, picture_index):
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient = Image.linear_gradient("L").resize((400, 300))
    photograph = Image.merge("RGB", (gradient, gradient.rotate(180), gradient.rotate(90)))
    content = encode(photograph, "JPEG", exif=exif, quality=95)
    check_dropped(browser, picture_index, "photo.jpg", content)


def check_dropped(browser, picture_index, name, content):
    script = """
    const { readPixels } = await import("./pictures.js");
    const bytes = Uint8Array.from(atob(values[0]), (character) => character.charCodeAt(0));
    const pixels = await readPixels(new Blob([bytes]), "picture");
    return [...await computer.call("embedPicture", pixels)];
    """
    found = browser.compute(LOAD + script, to_base64(content))
    [expected] = picture_index.image_encoder()([decode_image(content)])
    assert np.dot(found, expected) >= 0.995, name


def test_resizing_gives_the_bytes_of_pillow(browser):
    picture = Image.effect_noise((123, 77), 90).convert("RGBA")
    script = """
    const { resize } = await import("./resize.js");
    const data = Uint8Array.from(atob(values[0]), (character) => character.charCodeAt(0));
    const picture = { data, width: values[1], height: values[2] };
    return [...resize(picture, values[3], values[4], values[5]).data];
    """
    for size in ((32, 20), (200, 150)):
        for name in ("bicubic", "bilinear"):
            values = [to_base64(picture.tobytes()), *picture.size, *size, name]
            found = np.array(browser.compute(script, *values)).reshape(size[1], size[0], 3)
            resample = Image.Resampling[name.upper()]
            expected = np.asarray(picture.convert("RGB").resize(size, resample)).astype(int)
            assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("a cat", {"a cat": 1}),
        ("一只猫", {"一只猫": 1}),
        ("x-ray + blue - sky", {"x-ray": 1, "blue": 1, "sky": -1}),
        ("2:dog - .5:cat + 12:30", {"dog": 2, "cat": -0.5, "12:30": 1}),
    ],
)
def test_a_typed_query_shows_what_python_finds(browser, picture_index, vectors, query, terms):
    browser.search(query)
    vector = np.array(list(terms.values())) @ picture_index.text_encoder()(list(terms))
    expected = np.argsort(-(vectors[0] @ vector), kind="stable")[:5]
    assert cards(browser)[:5] == [vectors[1][row] for row in expected]


def test_pictures_and_examples_are_there_before_anything_is_typed(browser):
    assert len(cards(browser)) == 36
    assert browser.texts(".example") == ["a red square", "红方块"]
    browser.click(".example")
    browser.wait("return document.documentElement.dataset.query === 'a red square'")


def test_a_column_of_the_users_own_keeps_its_name(browser):
    script = """
    const { columnName } = await import("./strings.js");
    return ["camera", "search", "pictures"].map(columnName);
    """
    assert browser.compute(script) == ["Camera", "search", "pictures"]


def test_names_that_are_html_or_formulas_are_shown_as_text(browser):
    browser.search("teal")
    for _ in range(3):
        browser.run("document.querySelector('.more')?.click()")
        browser.wait("return document.querySelectorAll('#search-view .card').length >= 36")
    browser.wait("return document.querySelectorAll('#search-view .card').length > 140")
    titles = cards(browser)
    assert HOSTILE_NAME in titles
    assert "=1+1 & 'q' \"d\".png" in titles
    assert browser.texts("#title") == ["<b>Mine</b>"]
    assert browser.run("return window.hacked") is None


def test_a_dropped_picture_is_searched_with_and_finds_itself(browser, emoji, vectors):
    browser.drop("mine.webp", emoji[7]["image"]["bytes"], "image/webp")
    browser.wait("return document.querySelector('#terms img')")
    browser.wait(
        "return document.querySelector('#search-view .score')?.textContent.includes('1.00')"
    )
    assert cards(browser)[0] == "007.webp"


def test_a_query_of_nothing_but_minus_is_refused_in_a_sentence(browser):
    browser.find("#query").send_keys("- snow")
    sentence = browser.wait("return document.querySelector('#problem:not([hidden])')?.textContent")
    assert sentence == "This only says what not to find: add what to look for."


def test_a_picture_is_taken_away_from_a_query(browser, vectors):
    browser.search("a cat")
    first = cards(browser)[0]
    browser.click("#search-view .card")
    browser.driver.execute_script("document.querySelectorAll('.actions button')[2].click()")
    browser.wait("return document.querySelector('#terms .minus')")
    browser.wait(f"return document.querySelector('#search-view .title').textContent !== {first!r}")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("notes.png", b"no picture", "“notes.png” is not a picture that this browser can read."),
        ("empty.png", b"", "“empty.png” is not a picture that this browser can read."),
        (
            "cut.png",
            encode(Image.effect_noise((64, 64), 9))[:60],
            "is not a picture that this browser",
        ),
        ("huge.png", b"\0" * 64_000_001, "“huge.png” is too large: at most 64 MB."),
    ],
)
def test_a_file_that_is_no_picture_is_refused_in_a_sentence(browser, name, content, sentence):
    if len(content) > 1e6:
        browser.run(
            """
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(values[1])], values[0]));
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", options));
            """,
            name,
            len(content),
        )
    else:
        browser.drop(name, content)
    assert sentence in browser.wait(
        "return document.querySelector('#problem:not([hidden])')?.textContent"
    )


def test_a_picture_of_too_many_pixels_is_refused_in_a_sentence(browser):
    bomb = encode(Image.new("1", (20_000, 20_000)))
    browser.drop("bomb.png", bomb)
    sentence = browser.wait("return document.querySelector('#problem:not([hidden])')?.textContent")
    assert "too many pixels" in sentence or "is not a picture" in sentence


def test_a_folder_filter_leaves_only_what_is_in_it(browser):
    browser.click("#show-filters")
    browser.run(
        """
        const select = [...document.querySelectorAll("#filters select")]
          .find((it) => [...it.options].some((option) => option.value === "photos"));
        select.value = "photos";
        select.dispatchEvent(new Event("change"));
        """
    )
    browser.search("a cat")
    browser.wait("return document.querySelectorAll('#search-view .card').length === 3")
    assert set(cards(browser)) == {"a.jpg", HOSTILE_NAME, "=1+1 & 'q' \"d\".png"}


def test_a_picture_is_opened_explained_and_closed_by_keyboard(browser):
    browser.search("a red heart")
    first = cards(browser)[0]
    browser.run("document.querySelector('#search-view .card').focus()")
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.wait("return document.querySelector('#picture').open")
    assert browser.texts("#picture h2") == [first]
    browser.click("#why")
    browser.wait("return document.querySelector('.reason[data-done]')")
    assert browser.run("return !document.querySelector('.heat').hidden")
    assert browser.texts(".words .word") == ["a", "red", "heart"]
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    browser.wait("return !document.querySelector('#picture').open")


def test_an_explanation_is_the_loss_that_python_computes(browser, picture_index):
    rng = np.random.default_rng(0)
    size = picture_index.settings.model.image_size
    pixels = rng.normal(size=(3, size, size)).astype(np.float32)
    script = """
    const { Towers } = await import("./towers.js");
    const { explain, coveredPictures } = await import("./explain.js");
    const towers = new Towers(site.model);
    const pixels = Float32Array.from(values[0]);
    const terms = [{ text: "red heart", vector: await towers.embedText("red heart"), weight: 1 }];
    const found = await explain(towers, pixels, site.prepare.image_size, terms, () => {});
    const covered = [...coveredPictures(pixels, site.prepare.image_size)[27]];
    return { ...found, covered };
    """
    found = browser.compute(LOAD + script, pixels.flatten().tolist())
    encoder = picture_index.image_encoder()
    covered = np.array(found["covered"], np.float32).reshape(pixels.shape)
    changed = (covered != pixels).any(0)
    # A square of two cells of eight: a sixteenth of the picture.
    assert changed.sum() == (size // 4) ** 2
    whole, without = encoder.run({"pixel_values": np.stack([pixels, covered])})
    [text, rest] = picture_index.text_encoder()(["red heart", "red"])
    assert found["score"] == pytest.approx(whole @ text, abs=1e-5)
    assert found["parts"][27] == pytest.approx(whole @ text - without @ text, abs=1e-5)
    assert found["words"][1]["value"] == pytest.approx(whole @ text - whole @ rest, abs=1e-5)


def test_a_word_is_left_out_of_its_term_alone(browser, picture_index):
    size = picture_index.settings.model.image_size
    pixels = np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32)
    script = """
    const { Towers } = await import("./towers.js");
    const { explain } = await import("./explain.js");
    const towers = new Towers(site.model);
    const terms = [{ text: "red heart", weight: 2 }, { text: "snow", weight: -1 }];
    for (const term of terms) term.vector = await towers.embedText(term.text);
    const pixels = Float32Array.from(values[0]);
    return explain(towers, pixels, site.prepare.image_size, terms, () => {});
    """
    found = browser.compute(LOAD + script, pixels.flatten().tolist())
    [picture] = picture_index.image_encoder().run({"pixel_values": pixels[None]})
    whole, heart, red, snow = picture_index.text_encoder()(["red heart", "heart", "red", "snow"])
    sums = [2 * whole - snow, 2 * heart - snow, 2 * red - snow, whole]
    score, *others = [picture @ it / np.linalg.norm(it) for it in sums]
    assert found["score"] == pytest.approx(score, abs=1e-5)
    assert [it["word"] for it in found["words"]] == ["red", "heart", "snow"]
    values = [it["value"] for it in found["words"]]
    assert values == pytest.approx([score - other for other in others], abs=1e-5)


def test_labels_fit_the_pictures_that_they_fit_in_python(browser, picture_index, vectors):
    labels = ["a cat", "a house", "食物"]
    texts = picture_index.text_encoder()(labels)
    margins = class_margins(vectors[0], texts, PictureSearch(picture_index).background)
    least = float(np.median(margins))
    script = """
    const strict = new Computer();
    await strict.call("load", { ...site, min_class_margin: values[1] });
    return strict.call("classifyAll", values[0], true);
    """
    found = np.array([label for label, _ in browser.compute(LOAD + script, labels, least)])
    expected = np.where(margins >= least, (texts @ vectors[0].T).argmax(0), 3)
    is_clear = abs(margins - least) > 1e-2  # the texts of the page are rounded to half precision
    assert is_clear.sum() > 100
    np.testing.assert_array_equal(found[is_clear], expected[is_clear])


def shown_counts(browser, labels: list[str]) -> list[int]:
    """How many pictures the page shows under each label, which must be all that it shows."""
    notes = dict(zip(browser.texts(".group h2"), browser.texts(".group h2 small"), strict=True))
    counts = {
        title.removesuffix(note).strip(): int(note.split()[0].replace(",", ""))
        for title, note in notes.items()
    }
    assert counts.keys() <= set(labels)
    return [counts.get(label, 0) for label in labels]


def test_labels_have_the_probabilities_of_python(browser, picture_index, vectors):
    labels = ["a cat", "a house", "食物"]
    browser.click("a[data-view=labels]")
    field = browser.find("#labels")
    field.clear()
    field.send_keys("\n".join(labels))
    browser.click(".labels .main")
    browser.wait("return document.querySelector('#sorted .group')")
    texts = picture_index.text_encoder()(labels)
    fits = class_margins(vectors[0], texts, PictureSearch(picture_index).background) >= LEAST_MARGIN
    best = np.where(fits, (texts @ vectors[0].T).argmax(0), 3)
    expected = np.bincount(best, minlength=4).tolist()
    assert shown_counts(browser, [*labels, "None of these"]) == expected


def test_no_picture_is_set_aside_unless_that_is_asked(browser, picture_index, vectors):
    labels = ["a dog", "a tree"]
    browser.click("a[data-view=labels]")
    browser.click("#rejects")
    field = browser.find("#labels")
    field.clear()
    field.send_keys("\n".join(labels))
    browser.click(".labels .main")
    browser.wait("return document.querySelector('#sorted .group h2')?.textContent.startsWith('a ')")
    browser.click("#rejects")
    best = similarities(picture_index, vectors[0], labels).argmax(0)
    assert shown_counts(browser, labels) == np.bincount(best, minlength=2).tolist()


def test_a_dropped_picture_is_classified(browser, emoji):
    browser.click("a[data-view=labels]")
    browser.drop("mine.webp", emoji[3]["image"]["bytes"], "image/webp")
    browser.wait("return document.querySelectorAll('.group.one .bar').length === 7")


def test_the_map_draws_every_picture_and_opens_one(browser):
    browser.click("a[data-view=map]")
    count = browser.run("return Number(document.querySelector('#count').textContent.split(' ')[0])")
    browser.wait(
        f"return document.querySelector('#map-view canvas')?.dataset.painted === '{count}'"
    )
    browser.find("#map-view canvas").send_keys(Keys.ENTER)
    browser.wait("return document.querySelector('#picture').open")


@pytest.fixture
def strict_browser(tmp_path, site, shared_browser) -> Browser:
    """The page of a collection in which nothing fits any query."""
    target = tmp_path / "site"
    shutil.copytree(site, target)
    description = json.loads((target / "data" / "site.json").read_text(encoding="utf-8"))
    description["cut"]["min_margin"] = 1_000
    (target / "data" / "site.json").write_text(json.dumps(description), encoding="utf-8")
    with serve(target) as address:
        shared_browser.open(address)
        yield shared_browser


def test_the_map_lights_the_closest_where_nothing_fits(strict_browser):
    strict_browser.search("a cat")
    strict_browser.click("a[data-view=map]")
    strict_browser.wait("return document.querySelector('#map-view canvas')?.dataset.lit === '12'")


def test_another_address_closes_the_picture(browser):
    browser.search("a cat")
    browser.click("#search-view .card")
    browser.wait("return document.querySelector('#picture').open")
    browser.run("location.hash = 'q=bold'")
    browser.wait("return !document.querySelector('#picture').open")
    browser.wait("return document.documentElement.dataset.query === 'bold'")


def test_going_back_closes_the_picture(browser):
    browser.search("a cat")
    browser.run("location.hash = 'q=bold'")
    browser.wait("return document.documentElement.dataset.query === 'bold'")
    browser.click("#search-view .card")
    browser.wait("return document.querySelector('#picture').open")
    browser.driver.back()
    browser.wait("return !document.querySelector('#picture').open")


def test_the_address_of_a_search_brings_it_back(browser, address):
    browser.search("一只猫")
    expected = cards(browser)
    browser.open(browser.run("return location.href"))
    browser.wait("return document.documentElement.dataset.query === '一只猫'")
    assert cards(browser) == expected


def test_the_language_and_the_colours_are_switched_and_kept(browser, address):
    browser.click("#language")
    assert browser.texts("#views a") == ["搜索", "分类", "地图"]
    browser.click("#theme")
    browser.click("#theme")
    browser.open(address)
    assert browser.run("return document.documentElement.lang") == "zh-CN"
    assert browser.run("return document.documentElement.dataset.theme") == "dark"
    browser.run("localStorage.clear()")


def test_no_other_host_is_asked_for_anything(browser, address):
    browser.search("a cat")
    browser.click("#search-view .card")
    names = browser.run("return performance.getEntriesByType('resource').map((it) => it.name)")
    assert names
    assert all(name.startswith((address, "blob:")) for name in names)


def test_nothing_fails_on_the_way(browser):
    browser.errors()
    browser.search("a cat")
    browser.click("#search-view .card")
    browser.click("#why")
    browser.wait("return document.querySelector('.reason[data-done]')")
    assert browser.errors() == []


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_it_in_chinese_and_in_the_systems_colours(address, is_dark):
    with Browser(360, 740, "zh-CN", is_dark) as phone:
        phone.open(address)
        phone.search("一只猫")
        assert phone.texts("#views a") == ["搜索", "分类", "地图"]
        assert phone.run("return document.documentElement.scrollWidth") <= 360
        color = phone.run("return getComputedStyle(document.documentElement).backgroundColor")
        brightness = sum(int(part) for part in color[4:-1].split(","))
        assert (brightness < 150) == is_dark


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(address, axe, width, is_dark):
    with Browser(width, 844, is_dark=is_dark) as window:
        window.open(address)
        barriers = window.find_barriers(axe)
        window.click("#show-filters")
        window.search("a cat")
        barriers += window.find_barriers(axe)
        window.click("#search-view .card")
        barriers += window.find_barriers(axe)
        window.click("#picture .close")
        for view in ("labels", "map"):
            window.click(f"a[data-view={view}]")
            window.wait(f"return !document.querySelector('#{view}-view').hidden")
            barriers += window.find_barriers(axe)
    assert barriers == []
