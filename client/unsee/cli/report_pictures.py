"""A report's pictures, as files in a folder: ``0-before.png``, ``0-after.png``, ``1-before.png``, ..."""

from collections.abc import Callable, Iterable
from pathlib import Path

from unsee.cli.inputs import check_is_free, made_folder
from unsee.errors import InvalidArgumentError
from unsee.images import ReportImage
from unsee.jobs import EraseEvent


class ReportPictures:
    """Gathers an erasure's pictures while it runs, and writes them in the end.

    Args:
        folder: where to; None: nowhere.
        prompts: that are drawn.
        force: overwrite what is there.

    Raises:
        InvalidArgumentError: a file is there, or nothing is drawn that could be saved.
    """

    def __init__(self, folder: Path | None, prompts: int, force: bool) -> None:
        if folder is not None and not prompts:
            raise InvalidArgumentError.of("--report-folder", "got one without --report-images, allowed together")
        if folder is not None:
            made_folder(folder, option="--report-folder")
        self._folder = folder
        self._images: list[ReportImage] = []
        for path in paths_in(folder, prompts) if folder else ():
            check_is_free(path, force, option="--report-folder")

    def noticing(self, on_progress: Callable[[EraseEvent], None]) -> Callable[[EraseEvent], None]:
        """Return what takes events: it keeps the pictures, and hands everything on."""

        def on_event(event: EraseEvent) -> None:
            if isinstance(event, ReportImage):
                self._images.append(event)
            on_progress(event)

        return on_event

    def save(self) -> None:
        """Write what has come."""
        if self._folder is not None:
            save_pictures(self._images, self._folder)


def save_pictures(images: Iterable[ReportImage], folder: Path) -> list[Path]:
    """Write pictures into a folder, which is made if it is not there, and return their paths."""
    made_folder(folder)
    images = list(images)
    return [image.save(path) for image, path in zip(images, paths_in(folder, len(images) // 2), strict=True)]


def paths_in(folder: Path, prompts: int) -> list[Path]:
    """Return where the pictures of so many prompts go."""
    return [folder / f"{i}-{side}.png" for i in range(prompts) for side in ("before", "after")]
