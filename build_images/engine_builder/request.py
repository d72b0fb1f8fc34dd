"""What one engine is built from, whoever asks: a run's release in the store, or files on a workstation."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from artifacts.samples import samples_file
from artifacts.store import Store
from build_images.engine_builder.errors import NoCalibrationError
from build_images.engine_builder.task import read_pairs
from sluice.digest import sha256_json
from sluice.errors import FatalError
from sluice.model_inputs import Sample, wanted_samples
from sluice.pairs import Pairs
from sluice.plan import TENSORRT, TENSORRT_RTX
from sluice.release import Release
from sluice.spec import ReleaseSpec, Target
from sluice.spec_types import INT8_FORMS, METHODS, int8_file, mixed_name


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """onnx: the FP32 model, and its digest. int8: Q/DQ file by calibration method, empty without INT8.

    calibration_sha256: names where those came from. samples: real ones, none of which calibrated.
    pairs: what the spec's task asks for, none of which calibrated; None where it asks for none.
    store: keeps timing caches and shared weights; None: every build starts cold.
    """

    spec: ReleaseSpec
    target: Target
    onnx: Path
    onnx_sha256: str
    int8: Mapping[str, Path]
    calibration_sha256: str | None
    samples: Sequence[Sample]
    pairs: Pairs | None
    store: Store | None

    @property
    def strips_weights(self) -> bool:
        """Whether plans hold no weights. A backend that optimises while it loads reads no build options."""
        return self.target.backend in (TENSORRT, TENSORRT_RTX) and self.target.build.strip_weights

    @classmethod
    def of_release(cls, store: Store, release: Release, arch: str) -> Self:
        """From the artifacts of a run. Raises the store's errors, TooFewSamplesError."""
        spec, target = release.spec, release.spec.target(arch)
        checkpoint = store.get("checkpoint", release.keys.checkpoint).path
        file = samples_file(store, release)
        samples = held_out(file, spec)
        onnx = store.get("onnx", release.keys.onnx)
        int8 = {}
        if "int8" in spec.precisions:
            calibrated = store.get("calibration", release.keys.calibration)
            form = INT8_FORMS[target.backend]
            int8 = {
                method: calibrated.path / int8_file(form, method) for method in calibrated.facts["methods"]
            }
        return cls(
            spec=spec,
            target=target,
            onnx=onnx.path / "model.onnx",
            onnx_sha256=onnx.facts["onnx_sha256"],
            int8=int8,
            calibration_sha256=release.keys.calibration if int8 else None,
            samples=samples,
            pairs=read_pairs(checkpoint, file, spec),
            store=store,
        )

    @classmethod
    def of_files(
        cls,
        spec: ReleaseSpec,
        arch: str,
        *,
        onnx: Path,
        samples: Path,
        calibration: Path | None,
        store: Store | None,
    ) -> Self:
        """From files. calibration: the folder that `python -m calibration` wrote. Raises FatalErrors.

        The pairs of the spec's task lie where the samples do.
        """
        target, int8 = spec.target(arch), {}
        if "int8" in spec.precisions:
            if calibration is None:
                raise NoCalibrationError("--calibration is missing")
            kinds = (*METHODS, *map(mixed_name, METHODS))
            files = {kind: calibration / int8_file(INT8_FORMS[target.backend], kind) for kind in kinds}
            int8 = {method: file for method, file in files.items() if file.is_file()}
            if not int8:
                raise NoCalibrationError(
                    f"{calibration} holds no {int8_file(INT8_FORMS[target.backend], '*')}"
                )
        return cls(
            spec=spec,
            target=target,
            onnx=onnx,
            onnx_sha256=digest_of(onnx),
            int8=int8,
            calibration_sha256=_of_files(int8) if int8 else None,
            samples=held_out(samples, spec),
            pairs=read_pairs(samples.parent, samples, spec),
            store=store,
        )


def held_out(file: Path, spec: ReleaseSpec) -> tuple[Sample, ...]:
    """The `numerics.samples` samples behind those that calibrate. Raises TooFewSamplesError."""
    used = spec.calibration.samples if "int8" in spec.precisions else 0
    wanted, field_name = spec.numerics.samples, "numerics.samples"
    return wanted_samples(
        text_of(file),
        spec.model.inputs,
        spec.model.axes,
        field_name=field_name,
        wanted=wanted,
        used=used,
    )


def text_of(file: Path) -> str:
    """Its text. Raises FatalError where it is none, OSError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FatalError(
            f"{file} is no UTF-8 text: {error.reason} at byte {error.start}", "write it as UTF-8"
        ) from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file, 64 lowercase hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_files(files: Mapping[str, Path]) -> str:
    return sha256_json({method: digest_of(file) for method, file in files.items()})
