import random
import re

from training.world import (
    BACKGROUNDS,
    HELD_OUT_LOOK_TEMPLATES,
    HELD_OUT_PLAIN_TEMPLATES,
    ICONS,
    LOOK_SYNONYMS,
    LOOK_TEMPLATES,
    LOOKS,
    OBJECTS,
    PLAIN_TEMPLATES,
    SYNONYMS,
    Scene,
    caption,
    prompt,
    with_article,
)


def captions_of(scene: Scene, count: int = 400) -> list[str]:
    rng = random.Random(0)
    return [caption(scene, rng) for _ in range(count)]


def test_the_world_is_as_large_as_promised():
    assert len(set(ICONS.values())) == len(OBJECTS) >= 48
    assert len(LOOKS) >= 5
    assert len(BACKGROUNDS) >= 5


def test_synonyms_belong_to_one_object_and_are_no_object_themselves():
    words = [word for others in SYNONYMS.values() for word in others]
    assert len(words) == len(set(words))
    assert not set(words) & set(OBJECTS)
    assert set(SYNONYMS) <= set(OBJECTS)
    assert set(LOOK_SYNONYMS) <= set(LOOKS)


def test_every_caption_names_its_objects_in_order_from_left_to_right():
    for text in captions_of(Scene(("cat", "taxi"))):
        assert re.search(r"\b(cat|kitten|kitty)\b.* and .*\b(taxi|cab)\b", text), text


def test_every_caption_names_its_look_and_its_coloured_background():
    for text in captions_of(Scene(("lion",), "pixel art", "green")):
        assert "pixel art" in text or "8-bit art" in text, text
        assert "green" in text, text


def test_captions_without_a_colour_mean_white():
    assert not any(name in text for text in captions_of(Scene(("lion",))) for name in BACKGROUNDS if name != "white")


def test_held_out_templates_are_never_trained_on():
    plain = {prompt(template, ("lion",)) for template in HELD_OUT_PLAIN_TEMPLATES}
    looks = {prompt(template, ("lion",), "sepia") for template in HELD_OUT_LOOK_TEMPLATES}
    assert not set(PLAIN_TEMPLATES) & set(HELD_OUT_PLAIN_TEMPLATES)
    assert not set(LOOK_TEMPLATES) & set(HELD_OUT_LOOK_TEMPLATES)
    assert not plain & set(captions_of(Scene(("lion",))))
    assert not looks & set(captions_of(Scene(("lion",), "sepia")))


def test_a_caption_depends_on_the_generator_only():
    assert captions_of(Scene(("owl",), "blueprint")) == captions_of(Scene(("owl",), "blueprint"))


def test_nouns_take_the_article_that_is_said():
    assert [with_article(noun) for noun in ("owl", "cat", "8-bit art", "cherries")] == [
        "an owl",
        "a cat",
        "an 8-bit art",
        "cherries",
    ]
