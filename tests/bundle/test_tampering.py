"""A bundle that differs from what was written is refused, with the reason, before anything of it is used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_builders import small_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.bundle import open_bundle, sign_bundle, write_bundle, write_key_pair
from pi0_edge.bundle.checksums import write_checksums
from pi0_edge.errors import BundleError
from pi0_edge.processing.settings import ProcessingSettings

torch.set_num_threads(1)
REFUSED = "is refused: "
FILES = [
    "gate_report.html",
    "manifest.json",
    "manifest.sha256",
    "manifest.sig",
    "norm_stats.json",
    "tokenizer.json",
    "weights-i8-00000.safetensors",
]
LARGE = ["norm_stats.json", "weights-i8-00000.safetensors"]
"""Files whose every byte takes seconds; the default suite draws some of their bytes."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    private, public = folder / "robot.pem", folder / "robot.pub.pem"
    write_key_pair(private, public)
    return private, public


@pytest.fixture(scope="module")
def original(keys, tmp_path_factory) -> Path:
    """A signed bundle with every kind of file."""
    folder = tmp_path_factory.mktemp("original")
    write_bundle(folder / "bundle", **small_inputs(folder), private_key=keys[0])
    return folder / "bundle"


@pytest.fixture
def bundle(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "bundle")


def flip(path: Path, place: int, bits: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ bits]))


def test_the_original_has_every_kind_of_file_and_opens(original, keys):
    assert sorted(path.name for path in original.iterdir()) == FILES
    open_bundle(original)
    open_bundle(original, public_key=keys[1])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in FILES]
)
def test_every_single_flipped_byte_is_refused(bundle, name):
    """One bit of each byte, one after the other; the next test draws all other changes."""
    path = bundle / name
    content = path.read_bytes()
    for place in range(len(content)):
        flip(path, place, 1 << place % 8)
        with pytest.raises(BundleError, match=REFUSED):
            open_bundle(bundle)
        flip(path, place, 1 << place % 8)
    assert path.read_bytes() == content
    open_bundle(bundle)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_in_any_file_is_refused(original, data):
    path = original / data.draw(st.sampled_from(FILES))
    place = data.draw(st.integers(0, path.stat().st_size - 1))
    bits = data.draw(st.integers(1, 255))
    flip(path, place, bits)
    try:
        with pytest.raises(BundleError, match=REFUSED):
            open_bundle(original)
    finally:
        flip(path, place, bits)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_truncated_or_longer_file_is_refused(original, data):
    path = original / data.draw(st.sampled_from(FILES))
    content = path.read_bytes()
    changed = data.draw(
        st.integers(0, len(content) - 1).map(lambda length: content[:length])
        | st.binary(min_size=1, max_size=9).map(lambda more: content + more)
        | st.integers(0, len(content) - 1).map(lambda place: content[:place] + content[place + 1 :])
    )
    path.write_bytes(changed)
    try:
        with pytest.raises(BundleError, match=REFUSED):
            open_bundle(original)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    if name == "manifest.sig":
        with pytest.raises(BundleError, match=r"manifest\.sha256 was changed"):
            open_bundle(bundle)
    else:
        with pytest.raises(BundleError, match=f"{name} is missing"):
            open_bundle(bundle)


@pytest.mark.parametrize("name", ["model.pkl", ".hidden", "weights-i8-00001.safetensors", "tokenizer.model"])
def test_a_surplus_file_is_named(bundle, name):
    (bundle / name).write_bytes(b"surplus")
    with pytest.raises(BundleError, match=f"{name} is not in the manifest"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused_even_to_the_same_bytes(bundle, name, tmp_path):
    shutil.move(bundle / name, tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    with pytest.raises(BundleError, match=f"{name} (is a link|cannot be read)"):
        open_bundle(bundle)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("name", ["more", "tokenizer.json", "manifest.json"])
def test_folders_and_pipes_are_refused(bundle, make, name):
    (bundle / name).unlink(missing_ok=True)
    make(bundle / name)
    with pytest.raises(BundleError, match=REFUSED):
        open_bundle(bundle)


def test_the_folder_itself_may_be_a_link(bundle, tmp_path):
    (tmp_path / "current").symlink_to(bundle)
    assert open_bundle(tmp_path / "current").folder == bundle


@pytest.mark.parametrize("place", ["nowhere", "bundle/manifest.json"])
def test_a_path_that_is_no_folder_is_refused(bundle, tmp_path, place):
    with pytest.raises(BundleError, match="is not a folder"):
        open_bundle(tmp_path / place)


def test_error_distinguishes_a_truncated_from_a_longer_file(bundle):
    path = bundle / "weights-i8-00000.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 7)
    with pytest.raises(BundleError, match=f"is truncated: it has {size - 7} bytes, expected {size}"):
        open_bundle(bundle)
    os.truncate(path, size + 7)
    with pytest.raises(BundleError, match="is too long"):
        open_bundle(bundle)


@pytest.mark.parametrize("use", ["tensors", "processor"])
def test_a_change_between_verification_and_use_is_noticed(bundle, use):
    opened = open_bundle(bundle)
    path = bundle / ("tokenizer.json" if use == "processor" else "weights-i8-00000.safetensors")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(BundleError, match="was changed while it was used"):
        dict(opened.tensors()) if use == "tensors" else opened.processor()


def rewrite_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """What somebody without the key can do: another manifest, with the right checksum, without a signature."""
    plain = json.loads((bundle / "manifest.json").read_text())
    change(plain)
    content = json.dumps(plain).encode()
    (bundle / "manifest.json").write_bytes(content)
    (bundle / "manifest.sig").unlink()
    write_checksums(bundle, content, None)


def put(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    *above, last = path.split("/")

    def change(plain: dict[str, Any]) -> None:
        for name in above:
            plain = plain[name]
        plain[last] = value

    return change


def record(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain["files"].update({name: {"sha256": "0" * 64, "size": 0}})


FORGED = {
    "another format": (put("format", "onnx"), "has the format 'onnx'"),
    "a newer format": (put("format_version", 2), "format version 2, this pi0-edge reads 1: update it"),
    "a newer format with more fields": (
        lambda plain: plain.update(format_version=3, kernels={}),
        "format version 3, this pi0-edge reads 1",
    ),
    "version 0": (put("format_version", 0), "format version 0"),
    "a version that is true": (put("format_version", True), "format_version in the manifest is True"),
    "a version in words": (put("format_version", "1"), "format_version in the manifest is '1'"),
    "another architecture": (put("model/variant", "act"), "architecture is 'act', expected pi0 or pi05"),
    "another weight layout": (put("weights/layout", "sm87-packed"), "laid out as 'sm87-packed'"),
    "sizes that are impossible": (put("model/prefix/depth", 3), "impossible: prefix and expert"),
    "a size in words": (put("model/horizon", "50"), "model.horizon is '50'"),
    "a size that is true": (put("model/horizon", True), "model.horizon is True"),
    "a size below zero": (put("model/vision/depth", -1), "model.vision.depth is -1"),
    "a tower that is a list": (put("model/vision", []), r"model.vision is \[\]"),
    "a tower without a size": (lambda plain: plain["model"]["vision"].pop("width"), r"lacks \['width'\]"),
    "an unknown size": (put("model/experts", 4), "unknown \\['experts'\\]"),
    "a scheme without a name": (put("scheme/name", None), "scheme has no name"),
    "an unknown scheme": (put("scheme", {"name": "int2", "planes": 2}), "'int2' is unknown to this pi0-edge"),
    "a field too many": (put("exec", "rm"), r"unknown \['exec'\]"),
    "a field that is missing": (lambda plain: plain.pop("gate"), r"lacks \['gate'\]"),
    "a gate that is a text": (put("gate", "passed"), "gate in the manifest is 'passed'"),
    "a verdict that is 1": (put("gate/verdict/passed", 1), "the gate has no verdict"),
    "reasons that are numbers": (put("gate/verdict/reasons", [1]), "expected a list of texts"),
    "tools that are numbers": (put("tools/torch", 2), "tools in the manifest holds"),
    "a source without a hash": (put("source", {}), "source lacks"),
    "a path out of the folder": (record("../../etc/passwd"), "'../../etc/passwd', which is none of this format"),
    "an absolute path": (record("/etc/passwd"), "none of this format"),
    "a path into a folder": (record("a/weights-i8-00001.safetensors"), "none of this format"),
    "a name with a newline": (record("weights-i8-00001.safetensors\n"), "none of this format"),
    "a pickle": (record("model.pkl"), "none of this format"),
    "a program": (record("setup.py"), "none of this format"),
    "the manifest in itself": (record("manifest.json"), "none of this format"),
    "a file that is not there": (record("weights-i8-00001.safetensors"), "weights-i8-00001.safetensors is missing"),
    "files that are a list": (put("files", []), "files in the manifest is"),
    "a record that is a text": (put("files/tokenizer.json", "abc"), "expected an object"),
    "a hash that is none": (put("files/tokenizer.json/sha256", "abc"), "no SHA-256 in hexadecimal"),
    "a hash in capitals": (put("files/tokenizer.json/sha256", "A" * 64), "no SHA-256 in hexadecimal"),
    "a size that is a float": (put("files/tokenizer.json/size", 1.0), "size in tokenizer.json is 1.0"),
    "a negative file size": (put("files/tokenizer.json/size", -1), "a negative size"),
    "no tokenizer": (put("tokenizer", "weights-i8-00000.safetensors"), "lacks norm_stats.json or one of"),
    "a tokenizer that is not there": (put("tokenizer", "tokenizer.model"), "lacks norm_stats.json or one of"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_manifest_is_refused_with_the_reason(bundle, case):
    change, message = FORGED[case]
    rewrite_manifest(bundle, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


UNREADABLE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"format": "pi0-edge-bundle", "format_version": NaN}',
]


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_file_that_is_no_manifest_is_refused(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    (bundle / "manifest.sig").unlink()
    write_checksums(bundle, content, None)
    with pytest.raises(BundleError, match=REFUSED):
        open_bundle(bundle)


PROCESSING = {
    "an unknown robot field": put("robot/wheels", 4),
    "a robot without cameras": put("robot/cameras", {}),
    "a camera slot that is a list": put("robot/cameras", {"top": []}),
    "an unknown formula": put("normalization/state/mode", "guess"),
    "a normalization that is missing": put("normalization", {}),
    "an unknown prompt style": put("prompt_style", "poem"),
    "an unknown setting": put("settings/colour", "blue"),
    "a formula among the settings": put("settings/normalization", "identity"),
    "a setting that is no number": put("settings/padding_value", "black"),
}


def test_a_bundle_of_before_there_were_settings_has_openpis(bundle):
    rewrite_manifest(bundle, lambda plain: plain.pop("settings"))
    assert open_bundle(bundle).processor().settings == ProcessingSettings()


@pytest.mark.parametrize("case", PROCESSING)
def test_unusable_processing_is_refused(bundle, case):
    rewrite_manifest(bundle, PROCESSING[case])
    with pytest.raises(BundleError, match="the processing recorded in"):
        open_bundle(bundle).processor()


def test_a_new_signature_repairs_one_that_was_interrupted(bundle, keys):
    flip(bundle / "manifest.sig", 0, 1)
    with pytest.raises(BundleError, match="was changed"):
        open_bundle(bundle)
    sign_bundle(bundle, keys[0])
    open_bundle(bundle, public_key=keys[1])
    assert sorted(path.name for path in bundle.iterdir()) == FILES
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "weights-i8-00000.safetensors"])
def test_a_changed_bundle_is_not_signed(bundle, keys, name):
    flip(bundle / name, 9, 1)
    with pytest.raises(BundleError, match="was not signed"):
        sign_bundle(bundle, keys[0])


def test_a_signature_is_required_where_a_key_is_given(bundle, keys):
    rewrite_manifest(bundle, lambda plain: plain)
    open_bundle(bundle)
    with pytest.raises(BundleError, match="the bundle is not signed, and the signature of"):
        open_bundle(bundle, public_key=keys[1])


def test_a_manifest_signed_with_another_key_is_refused(bundle, keys, tmp_path):
    signature = (bundle / "manifest.sig").read_bytes()
    rewrite_manifest(bundle, put("source/checkpoint_sha256", "forged"))
    other = tmp_path / "other.pem"
    write_key_pair(other, tmp_path / "other.pub.pem")
    sign_bundle(bundle, other)
    open_bundle(bundle, public_key=tmp_path / "other.pub.pem")
    with pytest.raises(BundleError, match="signed with another key, or changed"):
        open_bundle(bundle, public_key=keys[1])
    (bundle / "manifest.sig").write_bytes(signature)  # the real signature of another manifest
    sums = (bundle / "manifest.sha256").read_text().splitlines(keepends=True)[0]
    from hashlib import sha256

    (bundle / "manifest.sha256").write_text(f"{sums}{sha256(signature).hexdigest()}  manifest.sig\n")
    open_bundle(bundle)
    with pytest.raises(BundleError, match="signed with another key, or changed"):
        open_bundle(bundle, public_key=keys[1])


def test_keys_are_never_overwritten_and_private(keys):
    assert keys[0].stat().st_mode & 0o077 == 0
    with pytest.raises(BundleError, match="a key is never overwritten"):
        write_key_pair(*keys)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_file_that_is_no_key_is_named(bundle, keys, tmp_path, swapped):
    private, public = keys if not swapped else keys[::-1]
    if not swapped:
        private = public = tmp_path / "robot.pem"
        private.write_text("not a key")
    with pytest.raises(BundleError, match=f"{private.name} is not a private key"):
        sign_bundle(bundle, private)
    with pytest.raises(BundleError, match=f"{public.name} is not a public key"):
        open_bundle(bundle, public_key=public)


def test_without_the_package_it_says_what_to_install(bundle, keys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography", None)
    open_bundle(bundle)
    from pi0_edge.errors import MissingDependencyError

    with pytest.raises(MissingDependencyError, match="pi0-edge\\[signing\\]"):
        open_bundle(bundle, public_key=keys[1])
