//! What a client sends in place of its password.

use aws_lc_rs::digest;
use aws_lc_rs::rsa::OAEP_SHA1_MGF1SHA1;
use aws_lc_rs::rsa::OaepPublicEncryptingKey;
use aws_lc_rs::rsa::PublicEncryptingKey;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use super::greeting::NONCE_BYTES;

/// The authentication methods that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// SHA-1; MariaDB's default, off by default since MySQL 8.4.
    NativePassword,
    /// SHA-256, and the whole password once per user and server start; MySQL's default since 8.0.
    CachingSha2Password,
}

/// The password cannot be sealed with what the server sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's RSA key cannot be used")]
pub struct UnusableKey;

impl Plugin {
    pub const fn name(self) -> &'static str {
        match self {
            Self::NativePassword => "mysql_native_password",
            Self::CachingSha2Password => "caching_sha2_password",
        }
    }

    /// `None` for everything else, above all for `mysql_clear_password`.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::NativePassword, Self::CachingSha2Password]
            .into_iter()
            .find(|plugin| plugin.name().as_bytes() == name)
    }

    /// The answer to the server's nonce. An empty password has an empty answer.
    pub fn scramble(self, password: &str, nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        match self {
            Self::NativePassword => {
                let hash = &digest::SHA1_FOR_LEGACY_USE_ONLY;
                let once = digest_of(hash, &[password.as_bytes()]);
                let twice = digest_of(hash, &[once.as_ref()]);
                let mask = digest_of(hash, &[nonce, twice.as_ref()]);
                xor(once.as_ref(), mask.as_ref())
            }
            Self::CachingSha2Password => {
                let hash = &digest::SHA256;
                let once = digest_of(hash, &[password.as_bytes()]);
                let twice = digest_of(hash, &[once.as_ref()]);
                let mask = digest_of(hash, &[twice.as_ref(), nonce]);
                xor(once.as_ref(), mask.as_ref())
            }
        }
    }
}

/// The password for the holder of the key in `pem`, bound to this login by its nonce.
///
/// # Errors
/// No RSA key of 2048 to 8192 bits, or a password that is too long for it.
pub fn seal_password(
    password: &str,
    nonce: &[u8; NONCE_BYTES],
    pem: &[u8],
) -> Result<Vec<u8>, UnusableKey> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| UnusableKey)?;
    let key = PublicEncryptingKey::from_der(&der).map_err(|_| UnusableKey)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| UnusableKey)?;
    let masked: Vec<u8> = clear_password(password)
        .into_iter()
        .zip(nonce.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    let mut sealed = vec![0; key.ciphertext_size()];
    let sealed = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &masked, &mut sealed, None)
        .map_err(|_| UnusableKey)?;
    Ok(sealed.to_vec())
}

/// The password as it is. For encrypted channels only.
pub(super) fn clear_password(password: &str) -> Vec<u8> {
    let mut bytes = password.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn digest_of(algorithm: &'static digest::Algorithm, parts: &[&[u8]]) -> digest::Digest {
    let mut context = digest::Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    context.finish()
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}
