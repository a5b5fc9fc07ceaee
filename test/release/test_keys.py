"""Keys and signatures: a private key stays private, and a signature is of one content and one key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.release.keys import (
    fingerprint,
    load_private_key,
    load_public_key,
    make_keys,
    read_signature,
    sign,
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path / 'keys' / 'line3')


def test_a_private_key_is_its_owners_alone_and_both_are_pem(pair):
    private, public = pair
    assert (private.name, public.name) == ('line3.pem', 'line3.pub.pem')
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text().startswith('-----BEGIN PRIVATE KEY-----')
    assert public.read_text().startswith('-----BEGIN PUBLIC KEY-----')
    assert fingerprint(load_private_key(private).public_key()) == fingerprint(load_public_key(public))


def test_a_signature_is_of_one_content_and_one_key(pair, tmp_path):
    private, public = pair
    (tmp_path / 's').write_text(sign(b'content', load_private_key(private)))
    signature, key = read_signature(tmp_path / 's'), load_public_key(public)
    assert signature.key == fingerprint(key)
    assert signature.is_of(b'content', key)
    assert not signature.is_of(b'contents', key)
    assert not signature.is_of(b'content', load_public_key(make_keys(tmp_path / 'other')[1]))


def test_an_existing_key_is_never_overwritten(pair):
    before = pair[0].read_bytes()
    with pytest.raises(UserError, match=r'line3\.pem exists'):
        make_keys(pair[0].with_name('line3'))
    assert pair[0].read_bytes() == before


def test_a_private_key_that_others_can_read_is_refused(pair):
    pair[0].chmod(0o640)
    with pytest.raises(UserError, match='chmod 600'):
        load_private_key(pair[0])
    for other in (pair[1], pair[0].parent):  # whose mode is not what is wrong with them
        with pytest.raises(UserError, match=r'give the \.pem file'):
            load_private_key(other)


@pytest.mark.parametrize('content', ['', 'no key', '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n'])
def test_a_file_that_is_no_key_is_refused_by_name(tmp_path, content):
    path = tmp_path / 'broken.pem'
    path.write_text(content)
    path.chmod(0o600)
    for load in (load_private_key, load_public_key):
        with pytest.raises(UserError, match=r'broken\.pem'):
            load(path)


def test_the_two_halves_are_not_mistaken_for_each_other(pair):
    with pytest.raises(UserError, match=r'line3\.pem holds no public key'):
        load_public_key(pair[0])
    pair[1].chmod(0o600)
    with pytest.raises(UserError, match=r'line3\.pub\.pem holds no private key'):
        load_private_key(pair[1])


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"algorithm": "none", "key": "", "signature": ""}',
                                     '{"algorithm": "ed25519", "key": "a", "signature": "xyz"}', '[' * 100_000])
def test_a_file_that_is_no_signature_is_refused_by_name(tmp_path, content):
    (tmp_path / 'manifest.sig').write_text(content)
    with pytest.raises(UserError, match=r'manifest\.sig is no ed25519 signature'):
        read_signature(tmp_path / 'manifest.sig')
