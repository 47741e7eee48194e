"""Name patients so that only who has the key can tell who they are.

A plain hash of a patient's id can be guessed by hashing all ids there may be; a number per import
would hide that two imports show one person. So pseudonyms are keyed hashes (HMAC-SHA256), and the
key is made once, in a file beside the datasets of a project. It is not part of any of them: whoever
is given a dataset, a run or a bundle is not given the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from pydantic import Field

from medssl.data.images.names import safe_id
from medssl.data.importers.importer import ImportSettings
from medssl.errors import MedSSLError
from medssl.files import refusals, write_private

KEY_NAME = "medssl-patients.key"
KEY_BYTES = 32
LETTERS = 12
"""Hexadecimal digits of a pseudonym: two of 10,000 patients share one in 1 of 5 million cases."""

_HEX = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}")


class PatientSettings(ImportSettings):
    """Options of formats whose files say whose scan they are."""

    keep_patient_id: bool = Field(
        False, description="keep patient ids and file names instead of pseudonyms"
    )
    patient_key: Path | None = Field(
        None,
        description="file of the key that pseudonyms are made with, made if it is not there; none: "
        f"{KEY_NAME} beside the dataset. The same key gives a patient the same pseudonym",
    )

    def beside(self, dataset: Path) -> PatientSettings:
        """Return the settings with the file of the key, which by default is beside a dataset."""
        return self.model_copy(
            update={"patient_key": (self.patient_key or dataset.parent / KEY_NAME).expanduser()}
        )

    def patient(self, text: str, otherwise: str) -> str:
        """Return a patient's name in the dataset.

        Args:
            text: the patient's id in the source.
            otherwise: what tells scans of different patients apart where there is no such id.

        Raises:
            MedSSLError: the key cannot be read or made.
        """
        own = known_patient(text, otherwise=otherwise)
        if self.keep_patient_id and own != otherwise:
            return safe_id(own)
        assert self.patient_key is not None, "set by beside()"
        return pseudonym(own, read_key(self.patient_key))


def known_patient(text: str, otherwise: str) -> str:
    """Return a file's patient id, or ``otherwise`` where it is missing or made anonymous.

    Files that all say "anonymous" are not of one patient.
    """
    nobody = ("", "unknown", "anonymous", "anonymized", "anonymised", "anon", "none")
    return otherwise if text.strip().lower() in nobody else text.strip()


def pseudonym(patient: str, key: bytes) -> str:
    """Return ``p`` and the first digits of the HMAC-SHA256 of a patient's id."""
    return "p" + hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:LETTERS]


def read_key(path: Path) -> bytes:
    """Return the key in a file, which is made, for its owner alone to read, if it is not there.

    Raises:
        MedSSLError: the file cannot be read or made, or holds no key.
    """
    what = "the key of the patients' pseudonyms cannot be read or made"
    fix = "name another file with --option patient_key=FILE, or --option keep_patient_id=true"
    if not path.exists():
        write_private(path, f"{secrets.token_hex(KEY_BYTES)}\n".encode(), what=what, fix=fix)
    with refusals(path, what=what, fix=fix):
        text = path.read_text(encoding="ascii", errors="replace").strip()
    if not _HEX.fullmatch(text):
        raise MedSSLError(
            f"the file holds no key: {2 * KEY_BYTES} hexadecimal digits",
            where=path,
            fix="restore it (another key gives the same patients other names), or name another "
            "file with --option patient_key=FILE",
        )
    return bytes.fromhex(text)
