"""Signed digests: bundles by the OpenSSF tool, and hostile ones."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.servers import Nginx

import libtz
import libtz.torch
from libtz import FormatError, IntegrityError, OptionError, sets, signatures
from libtz.bundle import BUNDLE_SIZE_MAX
from libtz.cli.main import main

TENSORS = {"a": torch.arange(1000.0), "b": torch.ones(3, dtype=torch.int8)}


class Key(NamedTuple):
    private: Any
    private_pem: bytes
    public_pem: bytes


def make_key(private: Any) -> Key:
    return Key(
        private,
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


KEY = make_key(ec.generate_private_key(ec.SECP256R1()))
OTHER = make_key(ec.generate_private_key(ec.SECP256R1()))


def write_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    libtz.torch.save_file(TENSORS, folder / "model.tz")
    (folder / "config.json").write_text("{}")
    signatures.write_pin(folder / "model.tz")
    sets.write_manifest(folder)


def model_signing(*arguments: Any) -> None:
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, signed all but the weights, as the tool does it."""
    root = tmp_path_factory.mktemp("signed")
    write_model(root / "m")
    (root / "signer.pub").write_bytes(KEY.public_pem)
    names = ("config.json", "model.tz-set", "model.tz.pin")
    write_bundle(root / "m", {name: sha256((root / "m" / name).read_bytes()) for name in names})
    return root


def copied(signed: Path, to: Path) -> Path:
    shutil.copytree(signed / "m", to)
    return to


# ---- What was signed -----------------------------------------------------------------------------


@pytest.mark.slow
def test_what_the_tool_signs_is_taken_and_the_tool_takes_it(tmp_path: Path) -> None:
    folder, bundle = tmp_path / "m", tmp_path / "m" / "model.sig"
    write_model(folder)
    (tmp_path / "signer.pem").write_bytes(KEY.private_pem)
    (tmp_path / "signer.pub").write_bytes(KEY.public_pem)
    private = ("--private_key", tmp_path / "signer.pem")
    ignored = ("--ignore-paths", folder / "model.tz")
    model_signing("sign", "key", folder, "--signature", bundle, *private, *ignored)
    for source in (folder, folder / "model.tz"):
        with libtz.open(source, signature=bundle, public_key=tmp_path / "signer.pub") as file:
            assert torch.equal(file.load()["a"], TENSORS["a"])
    public = ("--public_key", tmp_path / "signer.pub")
    model_signing("verify", "key", folder, "--signature", bundle, *public, *ignored)

    alone = tmp_path / "pin.sig"
    model_signing("sign", "key", folder / "model.tz.pin", "--signature", alone, *private)
    digest = signatures.signed_digest(
        folder / "model.tz", signature=alone, public_key=KEY.public_pem
    )
    assert f"{digest}\n" == (folder / "model.tz.pin").read_text()


@pytest.mark.parametrize("name", ["", "model.tz-set", "model.tz"])
def test_a_signed_folder_and_a_file_in_it(signed: Path, name: str) -> None:
    source = signed / "m" / name
    pin: dict[str, Any] = {
        "signature": signed / "m" / "model.sig",
        "public_key": signed / "signer.pub",
    }
    with libtz.open(source, **pin) as file:
        assert file.verified == "pinned"
        assert torch.equal(file.load()["a"], TENSORS["a"])
    with libtz.torch.open(source, **pin) as file:
        assert torch.equal(file["b"], TENSORS["b"])
    digest = signatures.signed_digest(source, **pin)
    if name == "model.tz":
        assert digest == (signed / "m" / "model.tz.pin").read_text().rstrip()
    else:
        assert digest == sets.digest(source)


def test_a_signed_model_on_a_server(signed: Path, nginx: Nginx) -> None:
    copied(signed, nginx.root / "signed-model")
    url = f"{nginx.http}/signed-model/"
    digest = signatures.signed_digest(
        url, signature=f"{url}model.sig", public_key=signed / "signer.pub"
    )
    assert libtz.torch.load_file(url, digest=digest).keys() == TENSORS.keys()


def test_a_file_of_another_format_is_pinned_by_its_own_hash(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    bundle = write_bundle(tmp_path, {"model.safetensors": sha256(path.read_bytes())})
    with libtz.open(path, signature=bundle, public_key=KEY.public_pem) as file:
        assert file.verified == "pinned"
    path.write_bytes(path.read_bytes()[:-1] + b"\2")
    with pytest.raises(IntegrityError) as caught:
        libtz.open(path, signature=bundle, public_key=KEY.public_pem)
    assert caught.value.code == "digest"


# ---- What was changed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "changed"), [("", "model.tz-set"), ("model.tz", "model.tz.pin")]
)
def test_another_manifest_or_pin_is_refused(
    signed: Path, tmp_path: Path, source: str, changed: str
) -> None:
    folder = copied(signed, tmp_path / "m")
    libtz.torch.save_file({"a": torch.zeros(1)}, folder / "model.tz")
    signatures.write_pin(folder / "model.tz")
    sets.write_manifest(folder)
    with pytest.raises(IntegrityError) as caught:
        libtz.open(
            folder / source, signature=folder / "model.sig", public_key=signed / "signer.pub"
        )
    assert caught.value.code == "digest"
    assert caught.value.expected == f"sha256:{sha256((signed / 'm' / changed).read_bytes())}"
    assert caught.value.found == f"sha256:{sha256((folder / changed).read_bytes())}"


def test_other_weights_are_refused(signed: Path, tmp_path: Path) -> None:
    folder = copied(signed, tmp_path / "m")
    libtz.torch.save_file({"a": torch.zeros(1)}, folder / "model.tz")
    for source in (folder, folder / "model.tz"):
        with pytest.raises(IntegrityError):
            libtz.open(
                source, signature=folder / "model.sig", public_key=signed / "signer.pub"
            ).load()


def test_another_signer_is_refused(signed: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        signatures.signed_digest(
            signed / "m", signature=signed / "m" / "model.sig", public_key=OTHER.public_pem
        )
    assert caught.value.code == "signature"


@pytest.mark.parametrize("name", ["else.tz", "else.tz-set", "else.safetensors"])
def test_a_file_that_the_signature_does_not_cover_is_refused(signed: Path, name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        signatures.signed_digest(
            signed / "m" / name,
            signature=signed / "m" / "model.sig",
            public_key=signed / "signer.pub",
        )
    assert caught.value.code == "signature"


# ---- Hostile bundles -----------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def statement(files: dict[str, str]) -> dict[str, Any]:
    """As the tool writes it."""
    root = sha256(bytes.fromhex("".join(files.values())))
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest}
                for name, digest in files.items()
            ],
            "serialization": {"method": "files", "hash_type": "sha256"},
        },
    }


def bundle_of(payload: bytes, key: Key = KEY, algorithm: Any = None) -> dict[str, Any]:
    kind = "application/vnd.in-toto+json"
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    signature = key.private.sign(message, ec.ECDSA(algorithm or hashes.SHA256()))
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


def write_bundle(folder: Path, files: dict[str, str], **options: Any) -> Path:
    path = folder / "model.sig"
    path.write_text(json.dumps(bundle_of(json.dumps(statement(files)).encode(), **options)))
    return path


FILES = {"x.safetensors": "0" * 64}


def checked(path: Path, public_key: Any = KEY.public_pem) -> str:
    return signatures.signed_digest("x.safetensors", signature=path, public_key=public_key)


@pytest.mark.parametrize(
    ("curve", "algorithm"),
    [(ec.SECP384R1(), hashes.SHA384()), (ec.SECP521R1(), hashes.SHA512())],
    ids=["P-384", "P-521"],
)
def test_larger_curves(tmp_path: Path, curve: Any, algorithm: Any) -> None:
    key = make_key(ec.generate_private_key(curve))
    path = write_bundle(tmp_path, FILES, key=key, algorithm=algorithm)
    assert checked(path, key.public_pem) == f"sha256:{'0' * 64}"
    path = write_bundle(tmp_path, FILES, key=key, algorithm=hashes.SHA256())
    with pytest.raises(IntegrityError):  # the hash goes with the curve
        checked(path, key.public_pem)


Change = Callable[[dict[str, Any]], Any]


def envelope(**changes: Any) -> Change:
    return lambda bundle: bundle["dsseEnvelope"].update(changes)


BROKEN_BUNDLES: dict[str, Change] = {
    "no envelope": lambda bundle: bundle.pop("dsseEnvelope"),
    "an envelope that is a list": lambda bundle: bundle.update(dsseEnvelope=[]),
    "another version": lambda bundle: bundle.update(
        mediaType="application/vnd.dev.sigstore.bundle.v0.1+json"
    ),
    "no signature": envelope(signatures=[]),
    "a signature that is text": envelope(signatures=["x"]),
    "a payload that is no Base64": envelope(payload="e30=\n"),
    "another type of payload": envelope(payloadType="text/plain"),
    "two signatures": lambda bundle: bundle["dsseEnvelope"]["signatures"].append({"sig": ""}),
}


@pytest.mark.parametrize("change", BROKEN_BUNDLES.values(), ids=BROKEN_BUNDLES.keys())
def test_malformed_bundles_are_refused(tmp_path: Path, change: Change) -> None:
    bundle = bundle_of(json.dumps(statement(FILES)).encode())
    change(bundle)
    (tmp_path / "a").write_text(json.dumps(bundle))
    with pytest.raises(FormatError) as caught:
        checked(tmp_path / "a")
    assert caught.value.code == "bad-signature"


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[1]", b'{"a":1,"a":1}', b"[" * 100_000, b"\xff", b"NaN", b"1" * 100_000],
    ids=["empty", "null", "list", "twice", "deep", "not UTF-8", "NaN", "long number"],
)
def test_bundles_that_are_not_bundles_are_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(FormatError) as caught:
        checked(tmp_path / "a")
    assert caught.value.code == "bad-signature"


def test_the_size_of_a_bundle_is_bounded(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(BUNDLE_SIZE_MAX + 1)
    with pytest.raises(FormatError) as caught:
        checked(tmp_path / "a")
    assert caught.value.code == "too-large"


def resource(**changes: Any) -> Change:
    return lambda value: value["predicate"]["resources"][0].update(changes)


BROKEN_STATEMENTS: dict[str, Change] = {
    "another statement": lambda value: value.update(_type="https://in-toto.io/Statement/v0.1"),
    "another predicate": lambda value: value.update(predicateType="https://slsa.dev/provenance/v1"),
    "no subject": lambda value: value.update(subject=[]),
    "two subjects": lambda value: value.update(subject=value["subject"] * 2),
    "no resources": lambda value: value["predicate"].pop("resources"),
    "a resource that is text": lambda value: value["predicate"].update(resources=["x"]),
    "a resource twice": lambda value: value["predicate"].update(
        resources=value["predicate"]["resources"] * 2
    ),
    "a digest in capitals": resource(digest="A" * 64),
    "a short digest": resource(digest="00"),
    "a digest that is a number": resource(digest=0),
    "another root": lambda value: value["subject"][0]["digest"].update(sha256="0" * 64),
}


@pytest.mark.parametrize("change", BROKEN_STATEMENTS.values(), ids=BROKEN_STATEMENTS.keys())
def test_malformed_statements_are_refused_although_signed(tmp_path: Path, change: Change) -> None:
    value = statement(FILES)
    change(value)
    (tmp_path / "a").write_text(json.dumps(bundle_of(json.dumps(value).encode())))
    with pytest.raises(FormatError) as caught:
        checked(tmp_path / "a")
    assert caught.value.code == "bad-signature"


def test_nothing_is_parsed_before_the_signature_holds(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps(bundle_of(b"not JSON", key=OTHER)))
    with pytest.raises(IntegrityError) as caught:
        checked(tmp_path / "a")
    assert caught.value.code == "signature"


def test_every_changed_letter_of_the_payload_is_found(tmp_path: Path) -> None:
    bundle = bundle_of(json.dumps(statement(FILES)).encode())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    for position in range(len(payload)):
        changed = bytearray(payload)
        changed[position] ^= 1
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
        (tmp_path / "a").write_text(json.dumps(bundle))
        with pytest.raises(IntegrityError) as caught:
            checked(tmp_path / "a")
        assert caught.value.code == "signature"


# ---- Other kinds ---------------------------------------------------------------------------------


def test_certificates_are_left_to_the_tool(tmp_path: Path) -> None:
    bundle = bundle_of(json.dumps(statement(FILES)).encode())
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": ""}, "tlogEntries": []}
    (tmp_path / "a").write_text(json.dumps(bundle))
    with pytest.raises(OptionError, match="model_signing"):
        checked(tmp_path / "a")


def test_other_hashes_say_how_to_sign(tmp_path: Path) -> None:
    value = statement(FILES)
    resource(algorithm="blake3")(value)
    (tmp_path / "a").write_text(json.dumps(bundle_of(json.dumps(value).encode())))
    with pytest.raises(OptionError, match="sha256"):
        checked(tmp_path / "a")


OTHER_CURVE = make_key(ec.generate_private_key(ec.SECP256K1()))
RSA = make_key(rsa.generate_private_key(65537, 2048))


@pytest.mark.parametrize(
    "public_key",
    [b"", b"x", RSA.public_pem, OTHER_CURVE.public_pem, KEY.private_pem, KEY.private_pem.decode()],
    ids=["empty", "not PEM", "RSA", "another curve", "private", "private, as if a path"],
)
def test_other_keys_are_refused_and_not_shown(tmp_path: Path, public_key: Any) -> None:
    path = write_bundle(tmp_path, FILES)
    with pytest.raises(OptionError) as caught:
        checked(path, public_key)
    assert KEY.private_pem.decode().splitlines()[1] not in str(caught.value)


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checked(write_bundle(tmp_path, FILES), tmp_path / "none.pub")


def test_options_that_exclude_each_other(signed: Path) -> None:
    source, bundle = signed / "m", signed / "m" / "model.sig"
    for options in (
        {"signature": bundle},
        {"public_key": KEY.public_pem},
        {"signature": bundle, "public_key": KEY.public_pem, "digest": f"blake3:{'0' * 64}"},
    ):
        with pytest.raises(OptionError):
            libtz.open(source, **options)
    with pytest.raises(OptionError):
        libtz.open(b"", signature=bundle, public_key=KEY.public_pem)


# ---- Pins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [b"", b"blake3:00\n", b"sha256:%s\n" % (b"0" * 64), b"blake3:%s" % (b"0" * 64)]
)
def test_malformed_pins_are_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "model.tz.pin").write_bytes(text)
    bundle = write_bundle(tmp_path, {"model.tz.pin": sha256(text)})
    with pytest.raises(FormatError) as caught:
        signatures.signed_digest(tmp_path / "model.tz", signature=bundle, public_key=KEY.public_pem)
    assert caught.value.code == "bad-signature"


def test_only_tz_files_have_pins(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "a.safetensors")
    with pytest.raises(FormatError) as caught:
        signatures.write_pin(tmp_path / "a.safetensors")
    assert caught.value.code == "not-tz"


# ---- The command line ----------------------------------------------------------------------------


def test_the_command_line(signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(signed, tmp_path / "m")
    (folder / "model.tz.pin").unlink()
    assert main(["digest", "--pin", str(folder / "model.tz")]) == 0
    assert capsys.readouterr().out == (folder / "model.tz.pin").read_text()
    signer = ["--signature", str(folder / "model.sig"), "--public-key", str(signed / "signer.pub")]
    for source in (folder, folder / "model.tz"):
        assert main(["verify", str(source), *signer]) == 0
        assert main(["verify", str(source), *signer[:2]]) == 2
        assert main(["verify", str(source), *signer, "--digest", f"blake3:{'0' * 64}"]) == 2
    (folder / "config.json").write_text("[]")
    assert main(["verify", str(folder), *signer]) == 1
    assert main(["verify", str(folder / "model.tz"), *signer]) == 0
    assert main(["digest", "--pin", "--set", str(folder)]) == 2
