"""What callers give: refused with its field before anything is sent, or read as it was meant."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import unsee
from unsee.images import image_bytes
from unsee.requests import erase_request, generate_request


@pytest.fixture(scope="module")
def client() -> Any:
    with unsee.Client("127.0.0.1:1") as nobody_listens:
        yield nobody_listens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ["/nowhere/cat.png"]}, "images\\[0\\]: /nowhere/cat.png cannot be read"),
        ({"images": [3]}, "images\\[0\\]: got int"),
        ({"images": "cat.png"}, "images: got one str, allowed a list"),
        ({"images": Path("cat.png")}, "images: got one PosixPath, allowed a list"),
        ({"synonyms": "kitten"}, "synonyms: got one str, allowed a list"),
        ({"retain": "a dog"}, "retain: got one str, allowed a list"),
        ({"kind": "animal"}, "kind: got 'animal'"),
        ({"rank": -1}, "rank: got '-1'"),
        ({"seed": 2**64}, "seed: got"),
        ({"strength": "much"}, "strength: got 'much'"),
        ({"labels": {"team": 1}}, "labels: got"),
    ],
)
def test_an_erasure_that_does_not_fit_the_wire_is_refused(client: Any, options: Any, message: str) -> None:
    with pytest.raises(unsee.InvalidArgumentError, match=message) as refused:
        client.start_erase("cat", **options)
    (violation,) = refused.value.violations
    assert str(refused.value) == f"{violation.field}: {violation.description}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapters": "no-cat"}, "adapters: got one str, allowed a list"),
        ({"adapters": [3]}, "adapters: got 3, allowed a name"),
        ({"adapters": [("no-cat", 1, 2)]}, "adapters: got \\('no-cat', 1, 2\\)"),
        ({"adapters": [("no-cat", "much")]}, "weight: got 'much'"),
        ({"width": -1}, "width: got '-1'"),
        ({"scheduler": "magic"}, "scheduler: got 'magic', allowed ddim"),
        ({"image_format": "gif"}, "image_format: got 'gif', allowed png"),
    ],
)
def test_a_generation_that_does_not_fit_the_wire_is_refused(client: Any, options: Any, message: str) -> None:
    with pytest.raises(unsee.InvalidArgumentError, match=message):
        client.start_generate("a cat", **options)


@pytest.mark.parametrize("start", ["start_erase", "start_generate"])
def test_an_option_that_does_not_exist_is_refused_as_python_does(client: Any, start: str) -> None:
    with pytest.raises(TypeError, match="'stepz', allowed"):
        getattr(client, start)("cat", stepz=3)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("/nowhere", {}, "source: /nowhere cannot be read"),
        (b"x", {"labels": {"team": 1}}, "labels: got"),
        (b"x", {"concept": "cat", "kind": "animal"}, "kind: got 'animal'"),
        (b"x", {"concept": "cat", "synonyms": "kitten"}, "synonyms: got one str"),
        (b"x", {"synonyms": ["kitten"]}, "synonyms: got \\['kitten'\\] without a concept"),
    ],
)
def test_an_import_that_cannot_be_read_is_refused(client: Any, source: Any, options: Any, message: str) -> None:
    with pytest.raises(unsee.InvalidArgumentError, match=message):
        client.import_adapter(source, **options)


def test_other_calls_refuse_what_does_not_fit_the_wire(client: Any) -> None:
    calls = (
        lambda: client.get_adapter(3),
        lambda: client.delete_adapter(3),
        lambda: client.cancel(3),
        lambda: client.attach(3),
        lambda: client.download(3),
        lambda: client.download("no-cat", "zip"),
        lambda: list(client.list_adapters(page_size=2**40)),
        lambda: list(client.list_adapters(created_after=datetime(2026, 1, 1))),
    )
    for call in calls:
        with pytest.raises(unsee.InvalidArgumentError, match="got"):
            call()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("", {}, "target: got nothing"),
        ("127.0.0.1:1", {"token": "a\nb"}, "token: got"),
        ("127.0.0.1:1", {"token": "schlüssel"}, "token: got"),
        ("127.0.0.1:1", {"tls_ca": "/nowhere.pem"}, "tls_ca: /nowhere.pem cannot be read"),
        ("127.0.0.1:1", {"tls_ca": __file__.replace("test_input", "conftest")}, "tls_ca: .*conftest.py is no PEM file"),
        ("127.0.0.1:1", {"tls_cert": "cert.pem"}, "tls_cert, tls_key: got one of them"),
        ("unsee.example.com:50051", {"token": "secret"}, "plaintext"),
        ("dns:///unsee.example.com:50051", {"token": "secret"}, "plaintext"),
        ("localhost.example.com:50051", {"token": "secret"}, "plaintext"),
    ],
)
def test_a_connection_that_cannot_work_is_refused(target: str, options: Any, message: str) -> None:
    with pytest.raises(unsee.InvalidArgumentError, match=message):
        unsee.Client(target, **options)


@pytest.mark.parametrize("target", ["127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "unix:/tmp/unsee"])
def test_a_token_may_go_to_this_machine_in_the_clear(target: str) -> None:
    unsee.Client(target, token="secret").close()


@pytest.mark.parametrize("name", ["num_images", "width", "height"])
def test_a_zero_that_the_wire_takes_for_none_is_refused(name: str) -> None:
    options: Any = {name: 0}
    with pytest.raises(unsee.InvalidArgumentError, match=f"{name}: got 0, allowed 1 and more"):
        generate_request("a cat", options)


def test_a_number_does_not_pass_for_true() -> None:
    options: Any = {"method": "closed_form", "options": {"random_prefixes": 2}}
    with pytest.raises(unsee.InvalidArgumentError, match="random_prefixes: got 2, allowed true, false"):
        erase_request("cat", options)
    options["options"]["random_prefixes"] = True
    assert erase_request("cat", options).closed_form.random_prefixes


def test_options_go_to_their_method_and_zero_is_not_taken_for_none() -> None:
    request = erase_request("cat", {"method": "closed_form", "options": {"harden": 0}})
    assert request.closed_form.HasField("harden")
    assert not request.closed_form.HasField("layers")
    assert erase_request("cat", {}).WhichOneof("method_options") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"layers": 1}}, "got layers and no method, allowed with method one of"),
        ({"method": "magic", "options": {"layers": 1}}, "method 'magic'"),
        (
            {"method": "sdd", "options": {"harden": 1}},
            "of 'sdd' allowed layers, drawing_steps",
        ),
    ],
)
def test_options_without_a_method_that_has_them_are_refused(options: Any, message: str) -> None:
    with pytest.raises(unsee.InvalidArgumentError, match=re.escape(message)):
        erase_request("cat", options)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "F", "I"])
def test_pil_images_of_every_mode_can_be_sent(mode: str) -> None:
    assert image_bytes(Image.new(mode, (8, 8)), "images[0]").startswith(b"\x89PNG")


def test_a_broken_pil_image_is_refused_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with Image.open(path) as broken, pytest.raises(unsee.InvalidArgumentError, match="images\\[0\\]: the picture"):
        image_bytes(broken, "images[0]")
