"""The SDK against the server as it is run, on the embedded model."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import unsee
from tests.e2e.conftest import Server
from unsee.audit_page import _ABOUT
from unsee_core.audit.job import ATTACKS

CATS = sorted(Path("bench/images/cat").glob("*.png"))


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[unsee.Client]:
    with unsee.Client(server.target) as connected:
        yield connected


@pytest.fixture(scope="module")
def no_cat(client: unsee.Client) -> unsee.Adapter:
    return client.erase("cat", images=CATS, synonyms=["kitten"], name="no-cat", labels={"team": "legal"})


def test_an_erasure_gives_an_adapter_that_changes_the_concept_and_less_the_rest(
    client: unsee.Client, no_cat: unsee.Adapter
) -> None:
    assert no_cat.concept == unsee.Concept("cat", ("kitten",), "object")
    assert no_cat.report is not None
    assert no_cat.report.concept_drift.p50 > 3 * no_cat.report.retain_drift.p50
    assert -1 < no_cat.report.erase_ratio < 0.3
    assert no_cat.settings["stands_in"] not in {"", "cat"}
    assert no_cat.report.spelling_ratios.keys() >= {"plural", "upper case"}
    assert len(no_cat.report.worst_neighbours) == 5
    assert no_cat.report.warnings == ()
    plain, erased = (client.generate("a cat", seed=0, steps=4, adapters=a)[0] for a in ([], [no_cat.name]))
    assert plain.data != erased.data


def test_saved_bytes_have_the_digest_and_can_be_imported_again(
    client: unsee.Client, no_cat: unsee.Adapter, tmp_path: Path
) -> None:
    path = no_cat.save(tmp_path / "no-cat.safetensors")
    again = client.import_adapter(path, name="again")
    assert again.digest == no_cat.digest
    assert not again.base_mismatch
    client.delete_adapter("again")


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_other_layouts_come_back_as_the_same_factors(
    client: unsee.Client, no_cat: unsee.Adapter, tmp_path: Path, layout: Any
) -> None:
    back = client.import_adapter(no_cat.save(tmp_path / layout, layout), name=f"from-{layout}")
    first, second = (
        client.generate("a cat", seed=0, steps=2, adapters=[a.name], no_metadata=True)[0] for a in (no_cat, back)
    )
    assert first.data == second.data
    client.delete_adapter(back.name)


def test_adapters_are_listed_by_label_concept_and_method(client: unsee.Client, no_cat: unsee.Adapter) -> None:
    for conditions in ({"labels": {"team": "legal"}}, {"concept": "KITTEN"}, {"method": no_cat.method}):
        assert no_cat in list(client.list_adapters(**conditions))  # type: ignore[arg-type]
    assert no_cat not in list(client.list_adapters(concept="dog"))
    assert no_cat not in list(client.list_adapters(created_before=no_cat.create_time))
    assert no_cat in list(client.list_adapters(created_after=no_cat.create_time))


def test_the_same_request_id_answers_with_the_first_result(client: unsee.Client) -> None:
    first, second = (client.generate("a dog", seed=3, steps=2, request_id="mine") for _ in range(2))
    assert first == second
    assert client.attach_generate("mine").result() == first
    with pytest.raises(unsee.InvalidArgumentError, match="prompt"):
        client.generate("a fox", seed=3, steps=2, request_id="mine")
    with pytest.raises(unsee.NotFoundError):
        client.attach("nobody").result()


def test_a_cancelled_erasure_stops_and_frees_the_place(client: unsee.Client) -> None:
    job = client.start_erase("dog", images=CATS, method="few_shot_lora", steps=2000)
    for event in job:
        if isinstance(event, unsee.EraseProgress) and event.phase == "train":
            break
    job.cancel()
    with pytest.raises(unsee.CancelledError):
        job.result(timeout=30)
    assert client.generate("a dog", steps=1).images


def test_pictures_of_mixed_adapters_are_those_drawn_alone(client: unsee.Client, no_cat: unsee.Adapter) -> None:
    asked = [("a cat", []), ("a cat", [no_cat.name]), ("a dog", [(no_cat.name, 0.5)])]
    alone = [client.generate(p, seed=1, steps=6, adapters=a)[0].to_pil() for p, a in asked]
    jobs = [client.start_generate(p, seed=1, steps=6, adapters=a) for p, a in asked]
    for job, picture in zip(jobs, alone, strict=True):
        together = job.result()[0].to_pil()
        differences = [abs(a - b) for a, b in zip(together.tobytes(), picture.tobytes(), strict=True)]
        assert max(differences) <= 1  # float32 sums in another order may round a pixel differently


def test_the_clients_images_are_nowhere_but_in_memory(client: unsee.Client, server: Server) -> None:
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(picture, "PNG")
    data = picture.getvalue()
    adapter = client.erase("private thing", images=[data], method="few_shot_lora", steps=2, name="private")
    needle = data[200:264]
    places = [p for p in server.store.rglob("*") if p.is_file()] + [server.log]
    assert places
    assert not [p for p in places if needle in p.read_bytes()]
    assert needle not in adapter.bytes()
    assert b"private thing" not in server.log.read_bytes()
    client.delete_adapter("private")


def test_many_threads_generate_while_an_erasure_runs(client: unsee.Client) -> None:
    job = client.start_erase("owl", images=CATS, method="few_shot_lora", steps=2000)
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda s=seed: results.append(client.generate("a dog", seed=s, steps=2).seeds[0]))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(results) == [0, 1, 2, 3]
    job.cancel()


def test_an_audits_page_says_of_every_attack_what_it_is() -> None:
    assert {"name", *ATTACKS} == set(_ABOUT)
