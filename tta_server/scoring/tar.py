"""Images in a tar file, as webdataset packs them: found once, then read in place."""

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tta_server.errors import ConfigError, InvalidInput, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import SUFFIXES
from tta_server.scoring.batches import InputImage
from tta_server.scoring.files import absolute, is_url, open_file, read_part
from tta_server.scoring.url_listing import stamp

TAR_SUFFIXES = (".tar",)


@dataclass(frozen=True, slots=True)
class TarImages:
    """Members of an archive that is not compressed: each one's place and length in bytes."""

    path: str
    ids: Sequence[str]
    places: Sequence[tuple[int, int]]
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def marks(self) -> Iterator[str]:
        version = stamp(self.path).hex() if is_url(self.path) else ""
        for name, (_, length) in zip(self.ids, self.places, strict=True):
            yield f"{name}\0{length}{version}"

    def images(self, start: int, stop: int, limits: Limits) -> Iterator[InputImage]:
        for name, place in zip(self.ids[start:stop], self.places[start:stop], strict=True):
            yield InputImage(name, self._reader(place, limits))

    def part(self, start: int, stop: int) -> "TarImages":
        return TarImages(absolute(self.path), self.ids[start:stop], self.places[start:stop])

    def _reader(self, place: tuple[int, int], limits: Limits) -> Callable[[], bytes]:
        def read() -> bytes:
            first, length = place
            if length > limits.max_bytes:
                raise TooLarge(f"the file has more than {limits.max_bytes} bytes, the limit for an image (--max-bytes)")
            data = read_part(self.path, first, length)
            if len(data) < length:
                raise InvalidInput(f"the archive ends after {len(data)} of its {length} bytes")
            return data

        return read


def read_tar(path: str) -> TarImages:
    """The images of an archive, in its order. Raises ConfigError."""
    ids, places, others = list[str](), list[tuple[int, int]](), 0
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if os.path.splitext(member.name)[1].lower() in SUFFIXES:
                    ids.append(member.name)
                    places.append((member.offset_data, member.size))
                else:
                    others += 1
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
    except tarfile.TarError as error:
        raise ConfigError(f"{path}: is not an archive that can be read: {error}") from None
    notes = [f"{path}: left out, without the suffix of an image: {others}"] if others else []
    return TarImages(path, ids, places, notes)
