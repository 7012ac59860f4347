"""Program files that tell what they are, signatures, and the log of runs."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton.sw import audit, cli, integrity
from lepton.sw.compiler import CompileError
from lepton.sw.files import DIGITS
from lepton.sw.program_file import parse_program

pytest.importorskip("cryptography")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a program file `p.lepton`, two pairs of keys, and an input."""
    folder = tmp_path_factory.mktemp("made")
    assert cli.main(["compile", str(DIGITS), "-o", str(folder / "p.lepton")]) == 0
    for name in ("mine", "other"):
        assert cli.main(["sign", "--new-key", str(folder / name)]) == 0
    np.save(folder / "x.npy", np.arange(-64, 64, dtype=np.int8).reshape(2, 8, 8, 1))
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def lepton(capsys, *arguments) -> tuple[int, str]:
    """Exit code, and all that was printed."""
    code = cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert err.count("\n") <= 1 and "Traceback" not in err
    return code, out + err


def run(folder, *more):
    return ("run", folder / "p.lepton", "--input", folder / "x.npy", "--output", folder / "y.npy", *more)


def test_a_file_tells_what_it_was_made_of(folder, capsys):
    code, text = lepton(capsys, "info", folder / "p.lepton", "--json")
    told = json.loads(text)["made"]
    data = (folder / "p.lepton").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        manifest = file.read("manifest.json")
        digests = json.loads(manifest)["sha256"]
        assert digests == {n: integrity.sha256(file.read(n)) for n in file.namelist() if n != "manifest.json"}
    assert code == 0 and told["model"] == "digits" and told["config"] == "small" and told["lepton"]
    assert told["manifest"] == integrity.sha256(manifest)
    assert f"manifest  {told['manifest']}" in lepton(capsys, "info", folder / "p.lepton")[1]


@pytest.mark.parametrize("member", ["program.json", "model.tflite", "weights.bin", "params.bin", "program.bin"])
def test_a_part_that_was_changed(folder, member):
    """One bit, in a file whose checksums are right."""
    with zipfile.ZipFile(folder / "p.lepton") as file:
        members = {n: file.read(n) for n in file.namelist()}
    data = bytearray(members[member])
    data[data.index(b"1") if member == "program.json" else len(data) // 2] ^= 1
    with pytest.raises(CompileError, match=f"{member} is not what its manifest tells"):
        parse_program(integrity.archive(members | {member: bytes(data)}))


def test_signatures(folder, capsys):
    required = run(folder, "--require-signature", folder / "mine.pub")
    code, text = lepton(capsys, *required)
    assert code == 2 and "p.lepton: not signed" in text and not (folder / "y.npy").exists()
    assert lepton(capsys, "sign", folder / "p.lepton", "--key", folder / "other")[0] == 0
    code, text = lepton(capsys, *required)
    assert code == 2 and "the signature is not by" in text
    assert lepton(capsys, "sign", folder / "p.lepton", "--key", folder / "mine")[0] == 0
    assert lepton(capsys, *required)[0] == 0
    assert lepton(capsys, *run(folder))[0] == 0  # who does not ask is not refused
    code, text = lepton(capsys, "run", DIGITS, *run(folder)[2:], "--require-signature", folder / "mine.pub")
    assert code == 2 and "not a program file, which alone can be signed" in text


def test_every_flipped_bit_of_a_signed_file_is_refused(folder):
    """Of the manifest, of the signature, and of a part with its digest in the manifest set right."""
    data = integrity.sign((folder / "p.lepton").read_bytes(), folder / "mine")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {n: file.read(n) for n in file.namelist()}
    integrity.verify(data, folder / "mine.pub", "p")
    rng = np.random.default_rng(1)
    for member in ("manifest.json", "signature.bin"):
        for _ in range(40):
            changed = bytearray(members[member])
            changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
            with pytest.raises(integrity.IntegrityError, match="the signature is not by"):
                integrity.verify(integrity.archive(members | {member: bytes(changed)}), folder / "mine.pub", "p")
    weights = bytearray(members["weights.bin"])
    weights[100] ^= 4
    told = members["manifest.json"].replace(
        integrity.sha256(members["weights.bin"]).encode(), integrity.sha256(bytes(weights)).encode()
    )
    forged = integrity.archive(members | {"weights.bin": bytes(weights), "manifest.json": told})
    parse_program(forged)
    with pytest.raises(integrity.IntegrityError):
        integrity.verify(forged, folder / "mine.pub", "p")


def test_keys(folder, capsys):
    assert (folder / "mine").stat().st_mode & 0o077 == 0
    for arguments, text in (
        (("sign", "--new-key", folder / "mine"), "a key is not written over"),
        (("sign", folder / "p.lepton"), "give FILE and --key KEY"),
        (("sign", DIGITS, "--key", folder / "mine"), "not a program file"),
        (("sign", folder / "p.lepton", "--key", folder / "mine.pub"), "not a private Ed25519 key"),
        (("sign", folder / "p.lepton", "--key", folder / "none"), "cannot be read"),
        (run(folder, "--require-signature", folder / "mine"), "not signed"),
    ):
        code, printed = lepton(capsys, *arguments)
        assert code == 2 and text in printed, arguments
    lepton(capsys, "sign", folder / "p.lepton", "--key", folder / "mine")
    code, printed = lepton(capsys, *run(folder, "--require-signature", folder / "mine"))
    assert code == 2 and "not a public Ed25519 key" in printed


# --- The log of runs --------------------------------------------------------------------------------------------------
def test_a_log_of_runs(folder, capsys):
    path = folder / "runs.log"
    for backend in ("golden", "iss", "golden"):
        assert lepton(capsys, *run(folder, "--audit", path, "--backend", backend))[0] == 0
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["run"] for e in entries] == [1, 2, 3] and [e["backend"] for e in entries] == ["golden", "iss", "golden"]
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    for entry in entries:
        assert entry["status"] == "ok" and entry["model"] == "digits" and entry["time"].endswith("+00:00")
        assert entry["input"] == integrity.sha256(x.tobytes()) and entry["output"] == integrity.sha256(y.tobytes())
        assert entry["image"] == parse_program((folder / "p.lepton").read_bytes()).made["manifest"]
    code, text = lepton(capsys, "audit", path)
    assert code == 0 and "3 runs, none missing" in text
    assert integrity.sha256(path.read_bytes().splitlines(keepends=True)[-1]) in text


@pytest.mark.parametrize("change", ["first", "middle", "swapped", "edited", "cut"])
def test_a_log_that_is_not_whole(folder, capsys, change):
    path = folder / "runs.log"
    for k in range(5):
        audit.append(path, {"cycles": k})
    lines = path.read_bytes().splitlines(keepends=True)
    lines = {
        "first": lines[1:],
        "middle": [*lines[:2], *lines[3:]],
        "swapped": [lines[0], lines[2], lines[1], *lines[3:]],
        "edited": [*lines[:3], lines[3].replace(b'"cycles": 3', b'"cycles": 4'), lines[4]],
        "cut": [*lines[:4], lines[4][:-5]],
    }[change]
    path.write_bytes(b"".join(lines))
    code, text = lepton(capsys, "audit", path)
    where = {"first": 1, "middle": 3, "swapped": 2, "edited": 5, "cut": 5}[change]
    assert code == 2 and f"line {where} " in text


def test_a_run_that_fails_is_in_the_log(folder, capsys):
    path = folder / "runs.log"
    code, _ = lepton(capsys, *run(folder, "--audit", path, "--backend", f"serial:{folder}/none"))
    assert code == 2
    if path.exists():  # not even opened: nothing ran
        assert json.loads(path.read_text())["status"] != "ok"


def test_no_log(folder, capsys):
    (folder / "text").write_text("hello\n")
    assert "line 1 is not one of" in lepton(capsys, "audit", folder / "text")[1]
    code, text = lepton(capsys, *run(folder, "--audit", folder / "text"))
    assert code == 2 and "the last line is not one of" in text
    code, text = lepton(capsys, "run", folder / "p.lepton", "--input", folder / "x.npy", "--audit", folder / "a")
    assert code == 2 and "--audit" in text
