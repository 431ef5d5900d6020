//! The signature of a CernVM image.
//!
//! Such an image ends in two blocks of 32 KiB, each a JSON document padded with zero bytes: one of
//! metadata, then the signature, with a certificate and a signature in base64. What is signed is
//! everything before the signature's block. The image is believed when the signature is right by
//! the certificate, the certificate is verified by the CAs of the site, and its subject matches the
//! pattern that the configuration gives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::Padding;
use openssl::stack::Stack;
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509StoreContext, X509VerifyResult};
use serde::Deserialize;

use super::json::mend_commas;
use crate::blocking;
use crate::model::{Dn, Timestamp};

/// The size of each of the two blocks, in bytes.
const BLOCK: u64 = 32 * 1024;
/// How much is read at once, in bytes.
const PIECE: u64 = 1024 * 1024;
/// `X509_V_ERR_UNABLE_TO_GET_CRL`.
const NO_CRL: i32 = 3;

/// Why an image is not what the configuration asks for.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is shorter than the two blocks.
    #[error("it has only {0} bytes, less than the blocks with which a CernVM image ends")]
    TooShort(u64),
    /// The last block is no signature.
    #[error("it does not end in a CernVM signature block: {0}")]
    NoBlock(String),
    /// The certificate in the block cannot be used.
    #[error("the certificate in its signature block cannot be used: {0}")]
    Certificate(String),
    /// The signature does not belong to this content.
    #[error("its signature is wrong: it was changed, or cut off, after it was signed")]
    WrongSignature,
    /// The certificate is not verified.
    #[error("the certificate of {dn} that signed it is not verified by {ca_path}: {why}")]
    Untrusted {
        /// The certificate's subject.
        dn: String,
        /// The directory of CAs.
        ca_path: String,
        /// What OpenSSL says.
        why: String,
    },
    /// It was signed by somebody else.
    #[error("it was signed by {dn}, which cernvm_signing_dn = {pattern} does not match")]
    OtherSigner {
        /// Who signed it.
        dn: String,
        /// The pattern.
        pattern: String,
    },
    /// OpenSSL does not work.
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// What the signature block holds. There is more in it, for people.
#[derive(Deserialize)]
struct Block {
    certificate: String,
    signature: String,
}

/// Who may have signed an image, and who says so.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// `cernvm_signing_dn`: matches the subject somewhere, unless it is anchored.
    pub pattern: &'a str,
    /// The directory of CAs, with hashed names.
    pub ca_path: &'a Path,
    /// The time that certificates are judged at.
    pub now: Timestamp,
}

/// Verifies the image in `file`, which has `size` bytes, and says who signed it. It is read once, a
/// piece at a time; this can be given up between two pieces.
///
/// # Errors
/// The first step that fails.
pub async fn verify(file: &Arc<File>, size: u64, rule: Rule<'_>) -> Result<Dn, SignatureError> {
    if size <= 2 * BLOCK {
        return Err(SignatureError::TooShort(size));
    }
    let signed = size - BLOCK;
    let block = read_at(file, signed, BLOCK).await?;
    let (certificate, signature) = read_block(&block)?;
    // What cannot be believed anyway is not worth reading gigabytes.
    let dn = subject(&certificate)?;
    is_trusted(&certificate, &dn, rule)?;
    is_wanted(&dn, rule)?;
    let key = certificate.public_key()?;
    if key.id() != Id::RSA {
        return Err(SignatureError::Certificate("its key is not RSA".to_owned()));
    }
    if !is_signed(file, signed, &key, &signature).await? {
        return Err(SignatureError::WrongSignature);
    }
    Ok(dn)
}

async fn read_at(file: &Arc<File>, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let file = Arc::clone(file);
    let length = usize::try_from(length).map_err(io::Error::other)?;
    blocking::run(move || {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    })
    .await
}

/// The certificate and the signature in a block.
fn read_block(block: &[u8]) -> Result<(X509, Vec<u8>), SignatureError> {
    let no_block = |why: &str| SignatureError::NoBlock(why.to_owned());
    let end = block.iter().rposition(|byte| *byte != 0);
    let end = end.ok_or_else(|| no_block("it is empty"))?;
    let text = block.get(..=end).unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| no_block("it is not text"))?;
    let block: Block = serde_json::from_str(&mend_commas(text)).map_err(|error| {
        // What stands there may be anything: only the kind and the place are told.
        let (line, column) = (error.line(), error.column());
        let what = match error.classify() {
            serde_json::error::Category::Data => "certificate or signature is missing",
            _ => "it is not JSON",
        };
        SignatureError::NoBlock(format!("{what} (line {line}, column {column})"))
    })?;
    let decode = |text: &str, what: &str| {
        let packed: String = text.split_whitespace().collect();
        let decoded = STANDARD.decode(packed);
        decoded.map_err(|_| SignatureError::NoBlock(format!("{what} is not base64")))
    };
    let certificate = decode(&block.certificate, "certificate")?;
    let signature = decode(&block.signature, "signature")?;
    let certificate = X509::from_pem(&certificate).or_else(|_| X509::from_der(&certificate));
    let certificate =
        certificate.map_err(|_| SignatureError::Certificate("it is not X.509".to_owned()))?;
    Ok((certificate, signature))
}

fn subject(certificate: &X509) -> Result<Dn, SignatureError> {
    let components = certificate.subject_name().entries().map(|entry| {
        let object = entry.object();
        let kind = match object.nid().short_name() {
            Ok(name) if object.nid() != openssl::nid::Nid::UNDEF => name.to_owned(),
            _ => object.to_string(),
        };
        entry.data().to_string().map(|value| (kind, value))
    });
    let unreadable = |why: String| SignatureError::Certificate(format!("its subject: {why}"));
    let components: Result<Vec<_>, _> = components.collect();
    let components = components.map_err(|error| unreadable(error.to_string()))?;
    Dn::from_components(components).map_err(|error| unreadable(error.to_string()))
}

fn is_wanted(dn: &Dn, rule: Rule<'_>) -> Result<(), SignatureError> {
    let dn = dn.to_string();
    // The configuration has made sure that it is a pattern.
    let matches = regex::Regex::new(rule.pattern).is_ok_and(|pattern| pattern.is_match(&dn));
    if matches {
        return Ok(());
    }
    Err(SignatureError::OtherSigner {
        dn,
        pattern: rule.pattern.to_owned(),
    })
}

/// Verifies the certificate by the site's CAs, and by their CRLs as far as there are any: of the
/// whole chain, of the certificate alone, or none.
fn is_trusted(certificate: &X509, dn: &Dn, rule: Rule<'_>) -> Result<(), SignatureError> {
    let all = X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL;
    for flags in [all, X509VerifyFlags::CRL_CHECK, X509VerifyFlags::empty()] {
        let outcome = verify_certificate(certificate, rule, flags)?;
        if outcome == X509VerifyResult::OK {
            return Ok(());
        }
        if outcome.as_raw() != NO_CRL {
            return Err(SignatureError::Untrusted {
                dn: dn.to_string(),
                ca_path: rule.ca_path.display().to_string(),
                why: outcome.error_string().to_owned(),
            });
        }
    }
    // Without CRLs nobody misses one.
    Err(SignatureError::Certificate(
        "it cannot be verified".to_owned(),
    ))
}

fn verify_certificate(
    certificate: &X509,
    rule: Rule<'_>,
    flags: X509VerifyFlags,
) -> Result<X509VerifyResult, ErrorStack> {
    let store = store(rule, flags)?;
    let mut context = X509StoreContext::new()?;
    let others = Stack::new()?;
    context.init(&store, certificate, &others, |context| {
        context.verify_cert()?;
        Ok(context.error())
    })
}

fn store(rule: Rule<'_>, flags: X509VerifyFlags) -> Result<X509Store, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    let directory = store.add_lookup(X509Lookup::hash_dir())?;
    directory.add_dir(
        &rule.ca_path.to_string_lossy(),
        openssl::ssl::SslFiletype::PEM,
    )?;
    let mut param = X509VerifyParam::new()?;
    param.set_flags(flags)?;
    if let Ok(now) = rule.now.unix().try_into() {
        param.set_time(now);
    }
    store.set_param(&param)?;
    Ok(store.build())
}

/// Whether the signature is that of the first `signed` bytes.
async fn is_signed(
    file: &Arc<File>,
    signed: u64,
    key: &PKey<Public>,
    signature: &[u8],
) -> Result<bool, SignatureError> {
    let mut digest = openssl::sha::Sha256::new();
    let mut offset = 0;
    while offset < signed {
        let length = PIECE.min(signed - offset);
        let source = Arc::clone(file);
        digest = blocking::run(move || {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let mut piece = vec![0; length];
            source.read_exact_at(&mut piece, offset)?;
            digest.update(&piece);
            io::Result::Ok(digest)
        })
        .await?;
        offset += length;
    }
    let digest = digest.finish();
    let mut context = openssl::pkey_ctx::PkeyCtx::new(key)?;
    context.verify_init()?;
    context.set_rsa_padding(Padding::PKCS1)?;
    context.set_signature_md(openssl::md::Md::sha256())?;
    // An error here is a signature of another length or form: it is as wrong as any other.
    Ok(context.verify(&digest, signature).unwrap_or(false))
}
